//! Ways out when no metadata node leads any more: `meta recover`, and `meta snapshot save --local` of a
//! stopped member. Both work on the folder of one member; no node is asked for anything.

use std::path::Path;

use wmall_metadata_node::{Config, Recovered, Standing, Survivor};

use super::meta::describe;
use super::{Context, consent};
use crate::args::RecoverArgs;
use crate::exit::Failure;

/// Writes the state of a stopped member, with all of its log.
pub(super) async fn save(context: &Context, file: &Path) -> Result<(), Failure> {
    let survivor = Survivor::open(&Config::load(context.role_config()?)?).await?;
    if !context.quiet && survivor.standing().past_applied > 0 {
        eprintln!("{}", uncertain(survivor.standing()));
    }
    let summary = survivor.save(file).await?;
    context.format.print(&summary, describe)
}

pub(super) async fn recover(context: &Context, args: &RecoverArgs) -> Result<(), Failure> {
    if !args.from_survivor {
        let why = "name what the metadata are recovered from: --from-survivor is the only way there is";
        return Err(Failure::usage(why).hint("`wmall meta snapshot restore` begins with a file instead"));
    }
    let path = context.role_config()?;
    let survivor = Survivor::open(&Config::load(path)?).await?;
    survivor.may_recover()?;
    let what = losses(survivor.standing());
    if args.dry_run {
        return context.format.print(survivor.standing(), |_| what);
    }
    consent::explicit(args.yes, &what).await?;
    let recovered = survivor.recover().await?;
    context.format.print(&recovered, |r| format!("{}\n\n{}", describe(&r.snapshot), steps(path, r)))
}

/// How far the member got, and what would be lost beyond that.
fn losses(standing: &Standing) -> String {
    let Standing { member, id, last, last_term, term, members, .. } = standing;
    let names = members.iter().map(|m| {
        let role = if m.voter { "" } else { " (was being taken in)" };
        format!("{} {}={}{role}", m.id, m.name, m.address)
    });
    let elections = match term > last_term {
        true => format!(
            "\nIt has heard of term {term}, later than that of its last entry: the others may have gone on \
             without it."
        ),
        false => String::new(),
    };
    format!(
        "{member} would begin a new life of the metadata as the only member, with all of its own log.\n\
         member      {id} {member}\n\
         last entry  {last}, of term {last_term}\n\
         {}\n\
         members     {}\n\
         Lost for good is all that the others acknowledged and this member does not have: entries behind {last}, \
         if there are any.{elections}\n\
         If another member is left too, recover with the one whose last entry has the higher term, then the \
         higher index.\n\
         None of the others may ever start again with the folder that it has.",
        uncertain(standing),
        names.collect::<Vec<_>>().join(", ")
    )
}

fn uncertain(standing: &Standing) -> String {
    let Standing { applied, past_applied, .. } = standing;
    format!(
        "applied     {applied}; {past_applied} entries behind it, which may or may not have been agreed on, are \
         taken as if they had been"
    )
}

/// The rest of the way, which is the operator's.
fn steps(config: &Path, recovered: &Recovered) -> String {
    let Recovered { standing, address, kept, .. } = recovered;
    let Standing { member, id, members, .. } = standing;
    let next = members.iter().map(|m| m.id).max().unwrap_or(0) + 1;
    let (config, kept) = (config.display(), kept.display());
    format!(
        "{member} is the only member now. Its folder of before is kept: {kept}\n\
         1. In {config}, leave this node alone in `members`, and take out `join`. A start does not go by them \
         any more, a restore would:\n\
         \x20    [[members]]\n\
         \x20    id = {id}\n\
         \x20    name = \"{member}\"\n\
         \x20    address = \"{address}\"\n\
         2. Start it, and look at `wmall status` and at your data.\n\
         3. Empty the folders of the other members. They, or others, come as new members: `join = true` and an \
         id that no member ever had, from {next} on, then `wmall metadata-node init` and `run`, and \
         `wmall meta member add NAME=IP:PORT --id N`.\n\
         4. In the configurations of clients and data nodes {member} stays in `metadata`. Take out those that do \
         not come back under their name and address, and put in those that are new.\n\
         5. When all is there that you can hope for, let deletion go on: `wmall meta allow-deletion`."
    )
}

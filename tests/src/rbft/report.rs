//! What runs of the simulator come to: without trouble met they would show nothing.

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Validators.
    pub size: usize,
    /// Events.
    pub events: u64,
    /// Blocks of the chain.
    pub blocks: u64,
    /// Checkpoints that became stable, at all nodes.
    pub checkpoints: u64,
    /// Views that were entered, at all nodes.
    pub views: u64,
    /// Epochs that began, at all nodes.
    pub epochs: u64,
    /// States that were fetched.
    pub updates: u64,
    /// Validators that rejoined.
    pub rejoins: u64,
    /// Crashes, messages lost, messages repeated, partitions, mischief of adversaries, evidence of it.
    pub crashes: u64,
    /// Messages that were lost.
    pub lost: u64,
    /// Messages that came twice.
    pub repeated: u64,
    /// Times that the network was parted.
    pub partitions: u64,
    /// What adversaries did.
    pub mischief: u64,
    /// Messages of validators of which there are two.
    pub twins: u64,
    /// What the specification judged.
    pub judged: u64,
    /// Worlds whose signatures were real.
    pub sealed: u64,
    /// Batches that were not taken.
    pub busy: u64,
    /// Equivocations that were shown.
    pub evidence: u64,
    /// What did not hold.
    pub violation: Option<String>,
}

impl Report {
    /// Adds what another run came to.
    pub fn add(&mut self, other: &Self) {
        let sums = [
            (&mut self.events, other.events),
            (&mut self.blocks, other.blocks),
            (&mut self.checkpoints, other.checkpoints),
            (&mut self.views, other.views),
            (&mut self.epochs, other.epochs),
            (&mut self.updates, other.updates),
            (&mut self.rejoins, other.rejoins),
            (&mut self.crashes, other.crashes),
            (&mut self.lost, other.lost),
            (&mut self.repeated, other.repeated),
            (&mut self.partitions, other.partitions),
            (&mut self.mischief, other.mischief),
            (&mut self.twins, other.twins),
            (&mut self.judged, other.judged),
            (&mut self.sealed, other.sealed),
            (&mut self.busy, other.busy),
            (&mut self.evidence, other.evidence),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { events, blocks, checkpoints, views, epochs, updates, rejoins, .. } = self;
        let Self {
            crashes, lost, repeated, partitions, mischief, busy, evidence, twins, judged, sealed, ..
        } = self;
        write!(
            f,
            "{events} events, {blocks} blocks, {checkpoints} checkpoints, {views} views, {epochs} epochs, "
        )?;
        write!(f, "{updates} state updates, {rejoins} rejoined, {crashes} crashes, {lost} messages lost, ")?;
        write!(f, "{repeated} repeated, {partitions} partitions, {mischief} acts of adversaries, ")?;
        write!(f, "{twins} messages of twins, {evidence} equivocations shown, {busy} batches refused, ")?;
        write!(f, "{judged} acts judged by the specification, {sealed} worlds of real signatures")
    }
}

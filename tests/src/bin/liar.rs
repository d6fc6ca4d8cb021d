//! A data node that lies: `liar CONFIG LIE…`, where a lie is `wrong-bytes`, `false-receipts`, `withhold` or
//! `full`.

use std::path::Path;

use wmall_data_node::{Config, Lies};
use wmall_runtime::Shutdown;

fn main() {
    let mut args = std::env::args().skip(1);
    let config = args.next().expect("a configuration");
    let mut lies = Lies::default();
    for lie in args {
        match lie.as_str() {
            "wrong-bytes" => lies.wrong_bytes = true,
            "false-receipts" => lies.false_receipts = true,
            "withhold" => lies.withhold = true,
            "full" => lies.full = true,
            other => panic!("{other} is no lie"),
        }
    }
    wmall_data_node::tell(lies);
    let config = Config::load(Path::new(&config)).expect("a configuration that is one");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(wmall_data_node::run(config, Shutdown::new())).unwrap();
}

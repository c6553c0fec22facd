//! The daemon that the tests run: `allidbd` as it is, built with them.

use clap::Parser;

/// The flags of `allidbd`.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    serve: allidbd::ServeArgs,
}

fn main() -> anyhow::Result<()> {
    allidbd::run(Arguments::parse().serve)
}

//! The daemon that the tests run: `allidbd` as it is, built with them.

use clap::Parser;

/// As in `allidbd`, or what is measured here would be another program's memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The flags of `allidbd`.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    serve: allidbd::ServeArgs,
}

fn main() -> anyhow::Result<()> {
    allidbd::run(Arguments::parse().serve)
}

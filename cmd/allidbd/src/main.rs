//! The AlliDB daemon.

use clap::Parser;

/// The AlliDB daemon: entities, vectors and a graph behind one gRPC port.
#[derive(Parser)]
#[command(name = "allidbd", version)]
struct Arguments {
    #[command(flatten)]
    serve: allidbd::ServeArgs,
}

fn main() -> anyhow::Result<()> {
    allidbd::run(Arguments::parse().serve)
}

//! The AlliDB daemon.

use clap::Parser;

/// Queries take and free blocks of all sizes on every thread, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The AlliDB daemon: entities, vectors and a graph behind one gRPC port.
#[derive(Parser)]
#[command(name = "allidbd", version = allidbd::build::SHORT)]
struct Arguments {
    #[command(flatten)]
    serve: allidbd::ServeArgs,
}

fn main() -> anyhow::Result<()> {
    allidbd::run(Arguments::parse().serve)
}

//! Threads for answers that may be large: to make and to encode millions of bytes takes so long that small calls, and connections, would wait for it
//! were it done where they are served.

use std::{io, panic::resume_unwind, sync::LazyLock};

use allidb_cluster::OnBehalf;
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
    task::{JoinError, JoinSet, spawn_blocking},
};

/// As many as there are cores. They last as long as the process. Where they cannot be had answers are made by whoever serves.
static THREADS: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    let threads = Builder::new_multi_thread().enable_all().thread_name("answers").build();
    threads
        .inspect_err(|error| tracing::warn!(%error, "large answers hold up small ones: they have no threads"))
});

/// What is translated at a time.
static TRANSLATING: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from)));

/// Drives a future by these threads. It ends if what is returned is dropped.
pub(crate) async fn driven<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let Ok(threads) = &*THREADS else { return future.await };
    let mut driving = JoinSet::new();
    driving.spawn_on(future.in_current_call(), threads.handle());
    match driving.join_next().await {
        Some(Ok(driven)) => driven,
        Some(Err(error)) => resume_unwind(error.into_panic()),
        // What was spawned is joined once.
        None => std::future::pending().await,
    }
}

/// Does what takes long, on a thread of its own, beside as many others as there are cores.
///
/// # Errors
/// If it panics.
pub(crate) async fn translated<T: Send + 'static>(
    translate: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    // It is never closed.
    let turn = TRANSLATING.acquire().await.ok();
    spawn_blocking(move || {
        // Though nobody waits any more.
        let _turn = turn;
        translate()
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{sync::oneshot, time::timeout};

    use super::*;

    #[tokio::test]
    async fn it_is_driven_elsewhere_and_ends_with_whoever_waits() {
        let name = driven(async { std::thread::current().name().map(str::to_owned) }).await;
        assert_eq!(name.as_deref(), Some("answers"));
        let (held, ended) = oneshot::channel::<()>();
        let waiting = driven(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        assert!(timeout(Duration::from_millis(20), waiting).await.is_err());
        assert!(ended.await.is_err(), "it was dropped");
    }
}

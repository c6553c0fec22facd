//! The flags of the daemon: the options that people change from one start to the next.

use std::path::PathBuf;

/// Flags of `allidbd` and of `allidb serve`. A flag beats the environment, which beats the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// The configuration file (YAML); every option is also an environment variable such as
    /// ALLIDB__LISTEN__GRPC.
    #[arg(long, value_name = "FILE", env = "ALLIDB_CONFIG")]
    pub config: Option<PathBuf>,
    /// The directory that holds everything.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where gRPC is served.
    #[arg(long, value_name = "ADDR")]
    pub grpc_listen: Option<String>,
    /// Where metrics and probes are served.
    #[arg(long, value_name = "ADDR")]
    pub http_listen: Option<String>,
    /// A file that tells the addresses, as JSON, once both are served.
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
    /// The embedding service that turns texts in place of vectors into vectors: OpenAI-compatible, or Ollama if it ends in
    /// /api/embed.
    #[arg(long, value_name = "URL")]
    pub embed_url: Option<String>,
    /// The name of its model.
    #[arg(long, value_name = "NAME")]
    pub embed_model: Option<String>,
    /// A folder with a static model that does so.
    #[arg(long, value_name = "DIR")]
    pub embed_folder: Option<PathBuf>,
    /// `pretty` or `json`.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What is logged, such as `info` or `allidb_storage=debug,info`.
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

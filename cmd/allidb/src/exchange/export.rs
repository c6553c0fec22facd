//! `allidb export`: a collection into files that `allidb import` reads.
//!
//! Entities are scanned page by page in the order of their ids, and the edges of each are asked for; what is written
//! meanwhile may be in the export or not.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use allidb_api::v1::{
    Collection, CountRequest, Direction, Edge, Entity, GetCollectionRequest, NeighborsRequest,
    RangeScanRequest, put_stream_request::Item,
};
use anyhow::{Context, Result};
use clap::Args;
use prost_types::FieldMask;
use serde_json::json;
use tokio::task::block_in_place;

use super::{
    FileFormat, Kind, definition,
    layout::Layout,
    parts::{Choice, Parts, Written, replace},
};
use crate::{
    client::Client,
    entity_json::{entity_ref, id_of},
    failure::Failure,
    filter_syntax,
    output::Output,
    progress::Progress,
    value_json,
};

/// Entities that are asked for together; a page of large ones holds fewer.
const PAGE: u32 = 500;
/// Entities whose edges are asked for at a time.
const ASKED_TOGETHER: usize = 16;
/// Edges of one entity that the server tells at a time.
const MAX_EDGES: u32 = 10_000;

/// Writes everything of a collection to a file (.jsonl, .csv, .parquet; the first two may be .zst), or entities, edges and
/// the collection's definition to a directory.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The collection.
    #[arg(short, long)]
    collection: String,
    /// The file or directory.
    path: PathBuf,
    /// How it is written; by the file's name, or jsonl in a directory, unless given.
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// Only entities that match, and edges that begin there.
    #[arg(long)]
    filter: Option<String>,
    /// Only vectors of these spaces, with commas between; all of them unless given.
    #[arg(long, value_name = "SPACES", value_delimiter = ',', conflicts_with = "no_vectors")]
    vectors: Option<Vec<String>>,
    /// No vectors.
    #[arg(long)]
    no_vectors: bool,
    /// Into a file: edges, rather than entities.
    #[arg(long)]
    edges: bool,
    /// Only edges that are valid at this RFC 3339 time; all of them unless given.
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// Go on with an export that was interrupted.
    #[arg(long)]
    resume: bool,
    /// Rows after which an interruption costs nothing of what is before; of Parquet the rows of a row group.
    #[arg(long, value_name = "ROWS", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    part: u32,
}

/// A file that was written.
struct Done {
    kind: Kind,
    path: PathBuf,
    /// None: it was complete before.
    written: Option<Written>,
}

/// Runs the command.
pub(crate) async fn run(args: ExportArgs, client: &Client, output: Output) -> Result<()> {
    let started = Instant::now();
    let asked = GetCollectionRequest { name: args.collection.clone() };
    let found = client.collections().get_collection(asked).await.map_err(Failure::from_status)?;
    let export = Export::new(&args, client, found.into_inner())?;
    let mut all = Vec::new();
    for (kind, path, format) in files(&args)? {
        let written = export.file(kind, &path, format).await?;
        all.push(Done { kind, path, written });
    }
    if is_directory(&args) {
        let path = args.path.join(definition::FILE);
        replace(&path, |to| Ok(fs::write(to, definition::write(&export.collection))?))?;
    }
    print(&all, started.elapsed().as_secs_f64(), output)
}

/// Whether the path is that of a directory, which need not be there: a name with an extension is a file's, unless a slash
/// stands behind it.
fn is_directory(args: &ExportArgs) -> bool {
    let has_slash = args.path.as_os_str().as_encoded_bytes().ends_with(b"/");
    args.path.is_dir() || has_slash || args.path.extension().is_none() && !args.edges
}

/// What is to be written.
fn files(args: &ExportArgs) -> Result<Vec<(Kind, PathBuf, FileFormat)>> {
    if args.path == Path::new("-") {
        return Err(Failure::usage("an export is written to a file or a directory, not to standard output"));
    }
    if !is_directory(args) {
        let Some(format) = args.format.or(FileFormat::of(&args.path)) else {
            let message = format!(
                "{}: the name of a file ends in .jsonl, .csv or .parquet, the first two maybe with .zst behind, unless \
                 --format says which it is; that of a directory ends in / or has no extension",
                args.path.display()
            );
            return Err(Failure::usage(message));
        };
        let kind = if args.edges { Kind::Edges } else { Kind::Entities };
        return Ok(vec![(kind, args.path.clone(), format)]);
    }
    if args.edges {
        return Err(Failure::usage("--edges is for a file; a directory gets entities and edges"));
    }
    fs::create_dir_all(&args.path).with_context(|| args.path.display().to_string())?;
    let format = args.format.unwrap_or(FileFormat::Jsonl);
    let path = |kind: Kind| args.path.join(format!("{}.{}", kind.name(), format.extension()));
    Ok([Kind::Entities, Kind::Edges].map(|kind| (kind, path(kind), format)).into())
}

/// What is exported, and from where.
struct Export<'a> {
    args: &'a ExportArgs,
    client: &'a Client,
    collection: Collection,
    /// Spaces whose vectors are written, and their dimensions.
    spaces: Vec<(String, u32)>,
    scan: RangeScanRequest,
    as_of: Option<prost_types::Timestamp>,
}

impl<'a> Export<'a> {
    fn new(args: &'a ExportArgs, client: &'a Client, collection: Collection) -> Result<Self> {
        let all = || collection.spaces.iter().map(|space| (space.name.clone(), space.dimension));
        let spaces = match &args.vectors {
            _ if args.no_vectors => Vec::new(),
            None => all().collect(),
            Some(wanted) => {
                for name in wanted {
                    if !collection.spaces.iter().any(|space| space.name == *name) {
                        let message = format!("`{}` has no space `{name}`", args.collection);
                        return Err(anyhow::Error::new(Failure::NotFound(message)));
                    }
                }
                all().filter(|(name, _)| wanted.contains(name)).collect()
            }
        };
        let as_of = args.as_of.as_deref().map(value_json::timestamp).transpose();
        let scan = RangeScanRequest {
            collection: args.collection.clone(),
            filter: args.filter.as_deref().map(filter_syntax::parse_argument).transpose()?,
            page_size: PAGE,
            consistency: client.consistency(),
            ..RangeScanRequest::default()
        };
        let as_of = as_of.map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Self { args, client, collection, spaces, scan, as_of })
    }

    /// Writes one file; `None` if it is complete already.
    async fn file(&self, kind: Kind, path: &Path, format: FileFormat) -> Result<Option<Written>> {
        let vectors = if self.args.no_vectors { Some(Vec::new()) } else { self.args.vectors.clone() };
        let choice = Choice {
            collection: self.args.collection.clone(),
            kind,
            format,
            filter: self.args.filter.clone(),
            vectors,
            as_of: self.args.as_of.clone(),
        };
        let Some(mut parts) = Parts::open(path, choice, self.args.resume)? else { return Ok(None) };
        let mut progress = Progress::start(kind.name(), self.total(kind).await);
        let written = self.pages(kind, format, &mut parts, &mut progress).await;
        progress.finish();
        written.with_context(|| {
            let rows = parts.written().rows;
            format!("{}: stopped after {rows} {}; --resume goes on", path.display(), kind.name())
        })?;
        block_in_place(|| parts.join()).map(Some)
    }

    /// How many rows there will be about, where the server can tell in time.
    async fn total(&self, kind: Kind) -> Option<u64> {
        if kind == Kind::Edges {
            return None;
        }
        let RangeScanRequest { collection, filter, consistency, .. } = self.scan.clone();
        let counted = self.client.entities().count(CountRequest { collection, filter, consistency }).await;
        counted.ok().map(|count| count.into_inner().count)
    }

    async fn pages(
        &self,
        kind: Kind,
        format: FileFormat,
        parts: &mut Parts,
        progress: &mut Progress,
    ) -> Result<()> {
        let after = parts.written().last_id.clone();
        let mut request = self.scan.clone();
        request.start_id = after.clone().unwrap_or_default();
        request.read_mask = Some(FieldMask { paths: self.read_mask(kind) });
        let mut service = self.client.entities();
        loop {
            let page = service.range_scan(request.clone()).await.map_err(Failure::from_status)?.into_inner();
            let is_new = |entity: &Entity| after.as_deref() != Some(id_of(entity.r#ref.as_ref()));
            let entities: Vec<Entity> = page.entities.into_iter().filter(is_new).collect();
            request.page_token = page.next_page_token;
            let is_last = request.page_token.is_empty();
            match kind {
                Kind::Entities => self.entities(entities, (format, is_last), parts)?,
                Kind::Edges => self.edges(&entities, parts).await?,
            }
            progress.at(parts.written().rows);
            if is_last {
                return Ok(());
            }
        }
    }

    fn read_mask(&self, kind: Kind) -> Vec<String> {
        let mut paths = match kind {
            Kind::Entities => vec!["type", "attributes", "importance", "expire_at", "sources", "chunks"],
            Kind::Edges => vec!["type"],
        };
        if kind == Kind::Entities && !self.spaces.is_empty() {
            paths.extend(["vectors", "chunks.vectors"]);
        }
        paths.into_iter().map(str::to_owned).collect()
    }

    fn entities(
        &self,
        mut entities: Vec<Entity>,
        (format, is_last): (FileFormat, bool),
        parts: &mut Parts,
    ) -> Result<()> {
        if self.args.vectors.is_some() {
            let is_wanted = |name: &String| self.spaces.iter().any(|(space, _)| space == name);
            for entity in &mut entities {
                entity.vectors.retain(|space, _| is_wanted(space));
                entity.chunks.iter_mut().for_each(|chunk| chunk.vectors.retain(|space, _| is_wanted(space)));
            }
        }
        if parts.layout().is_none() && (is_last || !entities.is_empty()) {
            parts.choose(Layout::of_entities(&entities, self.spaces.clone(), format));
        }
        let Some(last) = entities.last() else { return Ok(()) };
        let last = id_of(last.r#ref.as_ref()).to_owned();
        let items = entities.into_iter().map(Item::Entity).collect();
        self.write(items, last, parts)
    }

    async fn edges(&self, entities: &[Entity], parts: &mut Parts) -> Result<()> {
        if parts.layout().is_none() {
            parts.choose(Layout::Edges);
        }
        for some in entities.chunks(ASKED_TOGETHER) {
            let ids: Vec<&str> = some.iter().map(|entity| id_of(entity.r#ref.as_ref())).collect();
            let asked: Vec<_> = ids.iter().map(|id| tokio::spawn(self.edges_of(id))).collect();
            let mut items = Vec::new();
            for edges in asked {
                items.extend(edges.await??.into_iter().map(Item::Edge));
            }
            if let Some(last) = ids.last() {
                self.write(items, (*last).to_owned(), parts)?;
            }
        }
        Ok(())
    }

    /// Edges that begin at an entity.
    fn edges_of(&self, id: &str) -> impl Future<Output = Result<Vec<Edge>>> + Send + use<> {
        let mut request = NeighborsRequest {
            r#ref: Some(entity_ref(&self.args.collection, id)),
            direction: Direction::Out as i32,
            limit: MAX_EDGES,
            all: true,
            as_of: self.as_of,
            any_time: self.as_of.is_none(),
            consistency: self.client.consistency(),
            ..NeighborsRequest::default()
        };
        let mut service = self.client.graph();
        async move {
            let mut edges = Vec::new();
            loop {
                let told =
                    service.neighbors(request.clone()).await.map_err(Failure::from_status)?.into_inner();
                edges.extend(told.neighbors.into_iter().filter_map(|neighbor| neighbor.edge));
                if told.next_page_token.is_empty() {
                    // What is the same is written the same, wherever it lies.
                    edges.sort_by(|a: &Edge, b| name_of(a).cmp(&name_of(b)));
                    return Ok(edges);
                }
                request.page_token = told.next_page_token;
            }
        }
    }

    fn write(&self, items: Vec<Item>, last: String, parts: &mut Parts) -> Result<()> {
        block_in_place(|| {
            parts.write(items)?;
            parts.written().last_id = Some(last);
            if parts.is_full(self.args.part as usize) { parts.commit() } else { Ok(()) }
        })
    }
}

/// What an edge is called among those that begin where it does.
fn name_of(edge: &Edge) -> (&str, Option<(&str, &str)>, &str) {
    (&edge.relation, edge.to.as_ref().map(|to| (&*to.collection, &*to.id)), &edge.edge_id)
}

fn print(all: &[Done], seconds: f64, output: Output) -> Result<()> {
    if output.is_json() {
        let mut document = json!({ "seconds": seconds });
        for Done { kind, path, written } in all {
            let path = path.display().to_string();
            document[kind.name()] = match written {
                Some(of) => json!({"file": path, "rows": of.rows}),
                None => json!({"file": path, "was_complete": true}),
            };
        }
        output.document(&document)?;
        return Ok(());
    }
    for Done { kind, path, written } in all {
        let rows = match written {
            Some(written) => format!("{} {}", written.rows, kind.name()),
            None => "complete already".to_owned(),
        };
        output.line(format!("{}: {rows}", path.display()))?;
    }
    Ok(output.line(format!("{seconds:.1} s"))?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        export: ExportArgs,
    }

    fn args(path: &Path, more: &[&str]) -> ExportArgs {
        let path = path.to_str().expect("text");
        let words = [&["export", "-c", "c", path][..], more].concat();
        Command::try_parse_from(words).expect("arguments").export
    }

    #[test]
    fn names_tell_files_from_directories() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, more: &[&str]| files(&args(&dir.path().join(name), more));
        let none: &[&str] = &[];
        for (name, more, format) in [
            ("dump.jsonl", none, FileFormat::Jsonl),
            ("dump.csv.zst", none, FileFormat::Csv),
            ("dump.txt", &["--format", "csv"], FileFormat::Csv),
            ("dump", &["--edges", "--format", "parquet"], FileFormat::Parquet),
        ] {
            let found = at(name, more).unwrap();
            assert!(
                found.len() == 1 && found[0].1 == dir.path().join(name) && found[0].2 == format,
                "{found:?}"
            );
            assert!(!dir.path().join(name).exists(), "{name}");
        }
        for name in ["dump.jsonl.gz", "dump.json", "dump.zst"] {
            let error = at(name, &[]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(".parquet"), "{error}");
            assert!(!dir.path().join(name).exists(), "{name}");
        }
        for name in ["backup", "backup.2024/", "backup.2024"] {
            assert_eq!(at(name, &[]).unwrap().len(), 2, "{name}");
            assert!(dir.path().join(name).is_dir(), "{name}");
        }
        assert!(at("backup", &["--edges"]).is_err());
        assert!(files(&args(Path::new("-"), &[])).is_err());
    }
}

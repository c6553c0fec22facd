//! Imports files: the first rows say which vector spaces are needed, and then all rows go through `PutStream`.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use allidb_api::v1::{
    Collection, GetCollectionRequest, Space, TextSettings, Vector, put_stream_request::Item,
};
use anyhow::{Result, bail};
use clap::Args;
use tokio::{sync::mpsc, task::spawn_blocking};
use tonic::Code;

use super::{
    FileFormat, Kind,
    csv_rows::{CellType, parse_type},
    definition,
    entity_columns::Mapping,
    rows::{self, Reading, Row, Rows},
};
use crate::{
    client::Client,
    collections,
    failure::Failure,
    import::{Job, Report, one_file, prepared},
    ledger::{Counts, Ledger},
    put_stream::Batch,
};

/// Batches that the reader may be ahead of the sender.
const BATCHES_AHEAD: usize = 4;
/// What files of a directory may end in.
const EXTENSIONS: [&str; 5] = ["jsonl.zst", "jsonl", "csv", "csv.zst", "parquet"];

/// What is said of a file.
#[derive(Args, Debug)]
pub(crate) struct FileArgs {
    /// The file holds edges: `from`, `relation`, `to`, optional `weight` and more.
    #[arg(long)]
    edges: bool,
    /// How the file is written, if its name does not tell.
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// The column of a table that holds ids; `id` unless given.
    #[arg(long, value_name = "COLUMN")]
    id: Option<String>,
    /// The column that holds types; `type`, if there is one, unless given.
    #[arg(long = "type", value_name = "COLUMN", conflicts_with = "type_name")]
    type_column: Option<String>,
    /// The type of all entities of a table.
    #[arg(long, value_name = "TYPE")]
    type_name: Option<String>,
    /// A column that holds vectors, and their space. May be repeated; `vectors.SPACE` is one without being named.
    #[arg(long = "vector", value_name = "SPACE=COLUMN", value_parser = parse_vector)]
    vectors: Vec<(String, String)>,
    /// What the cells of a CSV column are: string (the default), int, double, bool, timestamp, bytes (base64) or json.
    #[arg(long, value_name = "COLUMN=TYPE", value_delimiter = ',', value_parser = parse_type)]
    types: Vec<(String, CellType)>,
    /// Columns of a table that are not read.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    omit: Vec<String>,
}

/// Why what is said of a file is refused.
const ONLY_FILES: &str =
    "--edges, --format, --id, --type, --type-name, --vector, --types and --omit are not for such a directory";

impl FileArgs {
    fn is_empty(&self) -> bool {
        let Self { edges, format, id, type_column, type_name, vectors, types, omit } = self;
        let names_columns = id.is_some() || type_column.is_some() || type_name.is_some();
        !edges
            && format.is_none()
            && !names_columns
            && vectors.is_empty()
            && types.is_empty()
            && omit.is_empty()
    }
}

fn parse_vector(text: &str) -> Result<(String, String), String> {
    let (space, column) = text.split_once('=').ok_or("vectors are SPACE=COLUMN")?;
    Ok((space.to_owned(), column.to_owned()))
}

/// What is imported.
pub(crate) struct Source {
    /// Entities before edges.
    files: Vec<(PathBuf, FileFormat, Kind)>,
    /// Of the collection, if it stands beside them.
    definition: Option<Collection>,
    mapping: Mapping,
    types: Vec<(String, CellType)>,
}

impl Source {
    /// What is at a path; `None` if it is a directory of the older form, with vectors in files of their own.
    ///
    /// # Errors
    /// If nothing there can be imported.
    pub(crate) fn find(path: &Path, args: &FileArgs) -> Result<Option<Self>> {
        let mapping = Mapping {
            id: args.id.clone(),
            type_column: args.type_column.clone(),
            type_name: args.type_name.clone(),
            vectors: args.vectors.clone(),
            omit: args.omit.clone(),
        };
        let types = args.types.clone();
        if !path.is_dir() {
            let by_name = if path == Path::new("-") { Some(FileFormat::Jsonl) } else { FileFormat::of(path) };
            let Some(format) = args.format.or(by_name) else {
                let message = format!(
                    "{}: neither a directory nor .jsonl, .csv or .parquet; --format says which it is",
                    path.display()
                );
                return Err(Failure::usage(message));
            };
            let kind = if args.edges { Kind::Edges } else { Kind::Entities };
            let files = vec![(path.to_owned(), format, kind)];
            return Ok(Some(Self { files, definition: None, mapping, types }));
        }
        let found = |kind: Kind| {
            let paths = EXTENSIONS.iter().map(|extension| path.join(format!("{}.{extension}", kind.name())));
            paths.into_iter().find(|path| path.is_file())
        };
        let file = |kind| found(kind).and_then(|path| Some((FileFormat::of(&path)?, path, kind)));
        let files: Vec<_> = [Kind::Entities, Kind::Edges].into_iter().filter_map(file).collect();
        let definition = definition::read(path)?;
        let is_table = files.iter().any(|(format, ..)| *format != FileFormat::Jsonl);
        if definition.is_none() && !is_table {
            return if args.is_empty() { Ok(None) } else { Err(Failure::usage(ONLY_FILES)) };
        }
        if args.edges || args.format.is_some() {
            return Err(Failure::usage("--edges and --format are for a file; in a directory the names tell"));
        }
        let files: Vec<_> = files.into_iter().map(|(format, path, kind)| (path, format, kind)).collect();
        if files.is_empty() {
            bail!("{} has neither entities nor edges", path.display());
        }
        Ok(Some(Self { files, definition, mapping, types }))
    }
}

/// What becomes of a collection or a space that is not there.
pub(crate) struct Missing {
    pub(crate) may_create: bool,
    pub(crate) metric: i32,
    pub(crate) codes: i32,
    pub(crate) text: TextSettings,
}

/// Sends the rows of all files.
pub(crate) async fn load(
    client: &Client,
    source: Source,
    job: Job,
    missing: Missing,
    done: Arc<HashSet<String>>,
    ledger: &mut Ledger,
) -> Result<Report> {
    let started = Instant::now();
    let reading = Reading {
        collection: job.collection.clone(),
        mapping: source.mapping,
        types: source.types,
        batch: job.batch,
    };
    let (mut entities, mut edges) = (Counts::default(), Counts::default());
    let mut is_ready = false;
    for (path, format, kind) in source.files {
        let mut reading = reading.clone();
        if is_ready {
            // What is said of columns is said of those of the first file.
            reading.mapping = Mapping::default();
            reading.types.clear();
        }
        let opened = spawn_blocking(move || -> Result<(Box<dyn Rows>, Vec<Row>)> {
            let mut rows = rows::open(&path, format, kind, &reading)?;
            let first = rows.next()?;
            Ok((rows, first))
        });
        let (rows, first) = opened.await??;
        if !is_ready {
            let spaces = spaces_of(&first, &missing);
            ensure(client, &job.collection, source.definition.as_ref(), &spaces, &missing).await?;
            is_ready = true;
        }
        let total = rows.total();
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let acknowledged = Arc::clone(&done);
        let read = spawn_blocking(move || read(rows, first, &acknowledged, &sender));
        let counts = one_file(client, &job, batches, kind.name(), total, ledger).await?;
        read.await?;
        match kind {
            Kind::Entities => entities = counts,
            Kind::Edges => edges = counts,
        }
    }
    Ok(Report { entities, edges, seconds: started.elapsed().as_secs_f64() })
}

/// Prepares rows until there are no more or nobody listens.
fn read(mut rows: Box<dyn Rows>, first: Vec<Row>, done: &HashSet<String>, sender: &mpsc::Sender<Batch>) {
    let mut next = Ok(first);
    loop {
        let batch = match next {
            Ok(some) if some.is_empty() => return,
            Ok(some) => Ok(some.into_iter().map(|row| prepared(row.item, row.origin, done)).collect()),
            Err(error) => Err(error),
        };
        let goes_on = batch.is_ok();
        if sender.blocking_send(batch).is_err() || !goes_on {
            return;
        }
        next = rows.next();
    }
}

/// The spaces of the vectors of these rows.
fn spaces_of(rows: &[Row], missing: &Missing) -> Vec<Space> {
    let mut dimensions: BTreeMap<&str, u32> = BTreeMap::new();
    for row in rows {
        let Ok(Item::Entity(entity)) = &row.item else { continue };
        let of_chunks = entity.chunks.iter().flat_map(|chunk| &chunk.vectors);
        for (space, vector) in entity.vectors.iter().chain(of_chunks) {
            let dimension = dimension(vector);
            if dimension > 0 {
                dimensions.entry(space).or_insert(dimension);
            }
        }
    }
    let space = |(name, dimension): (&str, u32)| Space {
        name: name.to_owned(),
        dimension,
        metric: missing.metric,
        codes: missing.codes,
        history: 0,
    };
    dimensions.into_iter().map(space).collect()
}

/// How many numbers a vector holds; 0 of a text that is to be embedded.
fn dimension(vector: &Vector) -> u32 {
    if vector.dimension > 0 { vector.dimension } else { u32::try_from(vector.values.len()).unwrap_or(0) }
}

/// Makes sure that the collection is there, and has these spaces. Whether vectors fit a space that is there the server
/// says of each.
async fn ensure(
    client: &Client,
    name: &str,
    definition: Option<&Collection>,
    spaces: &[Space],
    missing: &Missing,
) -> Result<()> {
    let asked = client.collections().get_collection(GetCollectionRequest { name: name.to_owned() }).await;
    let found = match (asked, definition) {
        (Ok(found), _) => found.into_inner(),
        (Err(status), Some(definition)) if status.code() == Code::NotFound && missing.may_create => {
            let collection = Collection { name: name.to_owned(), ..definition.clone() };
            collections::create(client, collection).await?
        }
        (Err(status), _) if status.code() == Code::NotFound => Collection::default(),
        (Err(status), _) => return Err(Failure::from_status(status)),
    };
    let is_missing = |space: &&Space| {
        !found.aliases.contains_key(&space.name) && !found.spaces.iter().any(|of| of.name == space.name)
    };
    let spaces: Vec<Space> = spaces.iter().filter(is_missing).cloned().collect();
    collections::ensure(client, name, &spaces, missing.text.clone(), missing.may_create).await
}

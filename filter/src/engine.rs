//! DataFusion with a memory limit, a place to spill, and parquet files as the only input.

mod blobs;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use futures::StreamExt;
use stage::{Cancel, Error, Kind, Result, ResultExt};
use store::Blob;
use url::Url;

use crate::scan::Columns;
use blobs::Blobs;

/// A query engine for one stage; blocking from outside, with threads of its own inside.
pub(crate) struct Engine {
    runtime: tokio::runtime::Runtime,
    context: SessionContext,
    blobs: Blobs,
    cancel: Cancel,
}

/// What a query may use.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    /// Threads and partitions, at least 1.
    pub(crate) threads: usize,
    /// Bytes that sorts and groupings may hold before they spill.
    pub(crate) memory: usize,
    /// Where they spill to; without it they may not.
    pub(crate) spill: Option<PathBuf>,
}

impl Engine {
    /// Starts the threads; reads nothing yet.
    pub(crate) fn new(budget: &Budget, cancel: &Cancel) -> Result<Self> {
        let threads = budget.threads.max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("query")
            .build()
            .internal("cannot start the query threads")?;
        let mut disk = DiskManagerBuilder::default();
        disk.set_mode(match &budget.spill {
            Some(folder) => DiskManagerMode::Directories(vec![folder.clone()]),
            None => DiskManagerMode::Disabled,
        });
        // The default cap of DataFusion is 100 GB; the disk itself is the limit here.
        disk.set_max_temp_directory_size(u64::MAX);
        let environment = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(budget.memory)))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(|e| query_error(&e, "cannot start the query engine"))?;
        let mut config = plain_config().with_target_partitions(threads);
        let options = config.options_mut();
        // Plain strings come out, as they went in.
        options.execution.parquet.schema_force_view_types = false;
        // A foreign footer's statistics may lie; no query of ours gains by them.
        options.execution.collect_statistics = false;
        options.execution.parquet.pruning = false;
        options.execution.parquet.bloom_filter_on_read = false;
        // Each sort sets this aside for its final merge; the default of 10 MB times the partitions
        // would eat a small budget before the first row.
        options.execution.sort_spill_reservation_bytes =
            (budget.memory / threads / 8).min(10 << 20);
        let context = SessionContext::new_with_config_rt(config, environment);
        let blobs = Blobs::default();
        if let Some(root) = Blobs::root() {
            context.register_object_store(&root, Arc::new(blobs.clone()));
        }
        Ok(Self { runtime, context, blobs, cancel: cancel.clone() })
    }

    /// The rows of these parquet files, each a local path or an object_store URL. A column that
    /// some files lack is null there; columns of one name may be numbers or strings of different
    /// widths.
    ///
    /// # Errors
    /// When a file is missing or no sound parquet, or a column has two types; names the file.
    pub(crate) fn parquet(&self, stage: &str, files: &[String]) -> Result<DataFrame> {
        if files.is_empty() {
            return Err(Error::input("no file is given").at(stage));
        }
        let mut columns = Columns::default();
        let mut urls = Vec::with_capacity(files.len());
        for file in files {
            self.cancel.check()?;
            // The footer is vetted before DataFusion's own reader sees it.
            let blob = Blob::open(file)?;
            let footer = store::parquet::File::open(&blob)?;
            if let Some((_, message)) = columns.add(footer.schema()).into_iter().next() {
                return Err(Error::input(message).at(file));
            }
            urls.push(self.locate(file, blob)?);
        }
        let options =
            ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension("");
        let table = ListingTableConfig::new_with_multi_paths(urls)
            .with_listing_options(options)
            .with_schema(columns.schema());
        let table =
            ListingTable::try_new(table).map_err(|e| query_error(&e, "cannot open the files"))?;
        self.context.read_table(Arc::new(table)).map_err(|e| query_error(&e, "cannot open"))
    }

    /// Runs a query and hands over its batches one by one; gives back what it spilled, in bytes.
    ///
    /// # Errors
    /// The query's, `each`'s, or an interruption.
    pub(crate) fn stream(
        &self,
        frame: &DataFrame,
        mut each: impl FnMut(RecordBatch) -> Result<()>,
    ) -> Result<usize> {
        self.runtime.block_on(async {
            let task = Arc::new(frame.task_ctx());
            let plan =
                frame.clone().create_physical_plan().await.map_err(|e| query_error(&e, PLAN))?;
            let mut batches =
                execute_stream(Arc::clone(&plan), task).map_err(|e| query_error(&e, RUN))?;
            while let Some(batch) = batches.next().await {
                self.cancel.check()?;
                each(batch.map_err(|e| query_error(&e, RUN))?)?;
            }
            Ok(spilled_bytes(plan.as_ref()))
        })
    }

    /// A URL that the session can read. Local paths become `file://`, so that no character of a
    /// path is taken for a pattern.
    fn locate(&self, file: &str, blob: Blob) -> Result<ListingTableUrl> {
        let url = match Url::parse(file) {
            Ok(url) if url.scheme() == "file" => Some(url),
            Ok(_) if file.contains("://") => self.blobs.add(blob),
            _ => {
                let path = Path::new(file).canonicalize().input("cannot open the file");
                Url::from_file_path(path.map_err(|e| e.at(file))?).ok()
            }
        };
        let url = url.ok_or_else(|| Error::input("not an address").at(file))?;
        ListingTableUrl::try_new(url, None).map_err(|e| query_error(&e, "no such place").at(file))
    }
}

/// A session for parsing and evaluating expressions; it reads nothing.
pub(crate) fn session() -> SessionContext {
    SessionContext::new_with_config(plain_config())
}

fn plain_config() -> SessionConfig {
    let mut config = SessionConfig::new();
    // Column names are taken as they are written: pools have names in any case.
    config.options_mut().sql_parser.enable_ident_normalization = false;
    config
}

const PLAN: &str = "cannot plan the query";
const RUN: &str = "the query failed";

fn spilled_bytes(plan: &dyn ExecutionPlan) -> usize {
    let own = plan.metrics().and_then(|m| m.spilled_bytes()).unwrap_or(0);
    own + plan.children().iter().map(|child| spilled_bytes(child.as_ref())).sum::<usize>()
}

/// DataFusion's error as ours, by its root cause.
pub(crate) fn query_error(error: &DataFusionError, message: &str) -> Error {
    let (kind, hint) = match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => {
            (Kind::Recipe, Some("give the stage more memory (memory_mb), or fewer threads"))
        }
        DataFusionError::IoError(_) => (Kind::Store, None),
        DataFusionError::ParquetError(_)
        | DataFusionError::ObjectStore(_)
        | DataFusionError::ArrowError(..)
        | DataFusionError::Execution(_) => (Kind::Input, None),
        _ => (Kind::Internal, None),
    };
    // A plan error carries a backtrace section in some builds; people read the first part.
    let text = error.strip_backtrace();
    let error = Error::new(kind, message).because(text);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

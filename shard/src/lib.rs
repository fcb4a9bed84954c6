//! WebDataset shards in and out.
//!
//! ```
//! use stage::PairSource;
//!
//! let mut tar = shard::TarWriter::new(Vec::new());
//! tar.append("0001.png", b"\x89PNG\r\n\x1a\n")?;
//! tar.append("0001.txt", b"a cat")?;
//! let blob = store::Blob::from_bytes("00000.tar", tar.finish()?.into());
//!
//! let shards = shard::Shards::from_blobs(&[blob], shard::Truncated::Refuse)?;
//! let pairs = shards.read(&[0])?;
//! assert_eq!((pairs.keys().value(0), pairs.captions().value(0)), ("0001", "a cat"));
//! # Ok::<(), stage::Error>(())
//! ```
//!
//! Out: [`PoolWriter`] writes what img2dataset writes, [`ReshardPlan`] what DataComp's resharder
//! does. In: [`PoolReader`] gives the rows of a pool's shard back, failures included; [`Shards`] is
//! a set of tars with random access, [`EpochPlan`] an exactly repeatable, resumable order over them,
//! [`Samples`] one tar as a stream. Below them: [`TarWriter`],
//! [`TarReader`], [`index`], [`Grouper`]. What others get, and what is taken out of it again:
//! [`release`].
//!
//! Invariants: equal samples give equal bytes (no clock, no owner, no order of completion); a tar is
//! never unpacked; nothing that a header says is allocated before it is checked.

mod pool_reader;
mod pool_writer;

mod reshard;
mod reshard_copy;
mod reshard_edit;
mod reshard_write;

mod epoch;
mod shards;

pub mod release;

mod sample;
mod tar_read;
mod tar_write;

mod caption_mask;
mod face_boxes;
mod identity;
mod member_index;
mod picture_suffix;
mod pool_parquet;
mod python_json;
mod sample_json;
mod sample_pairs;
mod shard_index;
mod shuffle;
mod spans;
mod tar_header;
mod tar_name;
mod tar_walk;
mod uids;

pub use epoch::{Cursor, Epoch, EpochPlan, Share};
pub use face_boxes::FaceBoxes;
pub use member_index::{
    INDEX_STAGE, IndexSummary, Indexes, ListedShard, MEMBERS, SHARD_LIST, read_shard_list,
    write_index,
};
pub use pool_reader::PoolReader;
pub use pool_writer::{PoolSummary, PoolWriter};
pub use release::ReleasePlan;
pub use reshard::{OutputShard, Pick, ReshardPlan, Resharding, Selection};
pub use reshard_edit::{Edited, Edits};
pub use reshard_write::{finish, run_unit, write_edited_tar, write_tar};
pub use sample::{Grouper, Sample, Samples};
pub use shard_index::Truncated;
pub use shards::Shards;
pub use tar_header::MAX_MEMBER;
pub use tar_name::{check_written, is_tar, parquet_beside, split_name};
pub use tar_read::{TarReader, index, index_whole};
pub use tar_walk::Member;
pub use tar_write::TarWriter;

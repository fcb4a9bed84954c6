//! `.npy` v1, v2 and v3 for floats and integers: our own reader, since the file may come from anywhere.
//!
//! Format: NEP 1 and `numpy/lib/format.py`. Read: a header of at most 64 KiB, of exactly numpy's
//! grammar, whose shape times item size equals the bytes that follow; nothing is allocated before
//! that is known. Objects (pickles), Fortran order, big endian and structured types are refused by
//! name. Written: byte for byte what `numpy.save` writes.
//!
//! ```
//! let mut file = Vec::new();
//! store::npy::write(&mut file, &[2, 2], &[0.5f32, 1.0, 1.5, 2.0])?;
//! let blob = store::Blob::from_bytes("embeddings.npy", file.into());
//! let array = store::npy::read::<f32>(&blob)?;
//! assert_eq!((array.shape, array.data[3]), (vec![2, 2], 2.0));
//! # Ok::<(), stage::Error>(())
//! ```

mod array;
mod header;

pub use array::{Array, Element, File, Writer, read, read_as_f32, write};
pub use header::Header;
pub(crate) use header::{MAGIC, header};

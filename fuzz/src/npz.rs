//! Archives of arrays from elsewhere, as DataComp distributes embeddings.

use store::{Blob, npz};

/// Arrays of one archive that are looked at.
const ARRAYS: usize = 8;
/// Rows that are read.
const ROWS: usize = 64;

/// Every array that opens has the rows that it says, and asked twice it says the same.
pub fn run(data: &[u8]) {
    let blob = Blob::from_bytes("fuzz.npz", data.to_vec().into());
    let Ok(archive) = npz::File::open(&blob) else { return };
    let names: Vec<String> = archive.names().take(ARRAYS).map(str::to_owned).collect();
    for name in names {
        let Ok(array) = archive.array(&name) else { continue };
        if array.row_len() > 1 << 16 {
            continue;
        }
        let rows = array.len().min(ROWS);
        let Ok(read) = array.rows_as_f32(0..rows) else { continue };
        assert_eq!(read.len(), rows * array.row_len(), "{name}");
        let again = archive.array(&name).and_then(|array| array.rows_as_f32(0..rows));
        let again = again.expect("an array that was read");
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read), bits(&again), "{name}");
    }
}

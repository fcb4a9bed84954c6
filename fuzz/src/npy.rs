//! Arrays and subset files from elsewhere.

use store::{Blob, npy, subset};

/// What is read, written again, is read as the same numbers.
pub fn run(data: &[u8]) {
    let blob = Blob::from_bytes("fuzz.npy", data.to_vec().into());
    floats(&blob);
    whole::<u8>(&blob);
    whole::<i64>(&blob);
    if let Ok(uids) = subset::read(&blob) {
        let mut file = Vec::new();
        subset::write(&mut file, &uids).expect("what was read ascends");
        let again = subset::read(&Blob::from_bytes("again.npy", file.into()));
        assert_eq!(again.expect("our own subset file"), uids);
    }
}

fn floats(blob: &Blob) {
    let Ok(array) = npy::read_as_f32(blob) else { return };
    let mut file = Vec::new();
    npy::write(&mut file, &array.shape, &array.data).expect("a shape that was read");
    let again = npy::read::<f32>(&Blob::from_bytes("again.npy", file.into()));
    let again = again.expect("our own array");
    let bits = |data: &[f32]| data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!((again.shape, bits(&again.data)), (array.shape, bits(&array.data)));
}

fn whole<T: npy::Element + PartialEq + std::fmt::Debug>(blob: &Blob) {
    let Ok(array) = npy::read::<T>(blob) else { return };
    let mut file = Vec::new();
    npy::write(&mut file, &array.shape, &array.data).expect("a shape that was read");
    let again = npy::read::<T>(&Blob::from_bytes("again.npy", file.into()));
    assert_eq!(again.expect("our own array"), array);
}

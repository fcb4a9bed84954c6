//! What is written is read, by both readers.

use proptest::prelude::*;
use shard::{TarReader, TarWriter, index};
use store::Blob;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_readers_give_what_was_written(
        members in prop::collection::vec(
            ("[0-9A-Za-z_-]{1,60}\\.[0-9a-z]{1,5}", prop::collection::vec(any::<u8>(), 0..2000)),
            0..12,
        )
    ) {
        let mut tar = TarWriter::new(Vec::new());
        for (name, data) in &members {
            tar.append(name, data).unwrap();
        }
        let bytes = tar.finish().unwrap();
        prop_assert_eq!(bytes.len() % 512, 0);
        let blob = Blob::from_bytes("0.tar", bytes.clone().into());
        let indexed: Vec<_> = index(&blob)
            .unwrap()
            .into_iter()
            .map(|m| (m.name, blob.read_at(m.offset, m.len as usize).unwrap().to_vec()))
            .collect();
        prop_assert_eq!(&indexed, &members);
        let streamed: Vec<_> = TarReader::new("0.tar", &bytes[..])
            .map(|entry| entry.map(|(member, data)| (member.name, data.to_vec())).unwrap())
            .collect();
        prop_assert_eq!(&streamed, &members);
    }
}

//! What a sample's members say beside its picture: `cls`, `npy` and fields of its json.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use stage::{Error, Pairs, Result};
use store::Blob;
use store::npy::File;

/// Numbers in one member: no metadata has as many.
const MOST_NUMBERS: usize = 100_000;

/// The class in the member `cls`: a whole number in ASCII. None where the member is missing.
pub(crate) fn class(pairs: &Pairs, row: usize, classes: usize) -> Result<Option<u32>> {
    let Some(bytes) = bytes(pairs, "cls", row) else { return Ok(None) };
    let text = String::from_utf8_lossy(bytes);
    let number: Option<i64> = text.trim().parse().ok();
    match number.and_then(|n| usize::try_from(n).ok()).filter(|n| *n < classes) {
        Some(class) => Ok(Some(class as u32)),
        None => Err(Error::input(match number {
            Some(n) => format!("class {n}, and there are {classes} classes, from 0"),
            None => {
                format!("the cls is no number: {:?}", text.chars().take(40).collect::<String>())
            }
        })
        .at(pairs.keys().value(row))
        .hint("classnames.txt belongs to another test set, or the tar is damaged")),
    }
}

/// The numbers in the member `npy`. None where the member is missing.
pub(crate) fn numbers(pairs: &Pairs, row: usize) -> Result<Option<Vec<i64>>> {
    let Some(bytes) = bytes(pairs, "npy", row) else { return Ok(None) };
    let name = format!("{}.npy", pairs.keys().value(row));
    npy(&name, bytes).map(Some)
}

fn npy(name: &str, bytes: &[u8]) -> Result<Vec<i64>> {
    let blob = Blob::from_bytes(name, bytes.to_vec().into());
    let file = File::open(&blob)?;
    let (rows, each) = (file.len(), file.row_len());
    if rows.saturating_mul(each) > MOST_NUMBERS {
        return Err(Error::input(format!("more than {MOST_NUMBERS} numbers")).at(name));
    }
    let all = 0..rows;
    macro_rules! whole {
        ($type:ty) => {
            file.rows::<$type>(all)?.into_iter().map(|v| v as i64).collect()
        };
    }
    let found: Vec<i64> = match file.header().descr().trim_start_matches(['|', '<']) {
        "i1" => whole!(i8),
        "i2" => whole!(i16),
        "i4" => whole!(i32),
        "i8" => whole!(i64),
        "u1" => whole!(u8),
        "u2" => whole!(u16),
        "u4" => whole!(u32),
        "u8" => whole!(u64),
        "b1" => {
            let start = usize::try_from(file.header().data_offset()).unwrap_or(usize::MAX);
            let data = bytes.get(start..).unwrap_or_default();
            data.iter().take(rows * each).map(|b| i64::from(*b != 0)).collect()
        }
        // WILDS turns its metadata into whole numbers, towards zero.
        "f8" => whole!(f64),
        _ => file.rows_as_f32(all)?.into_iter().map(|v| v as i64).collect(),
    };
    Ok(found)
}

fn bytes<'a>(pairs: &'a Pairs, member: &str, row: usize) -> Option<&'a [u8]> {
    let column = pairs.batch().column_by_name(member)?.as_binary_opt::<i32>()?;
    column.is_valid(row).then(|| column.value(row))
}

/// A field of the json as text.
pub(crate) fn field(pairs: &Pairs, name: &str, row: usize) -> Result<String> {
    let missing = || {
        Error::input(format!("sample {} has no `{name}` in its json", pairs.keys().value(row)))
            .hint("name the field that holds the class with `label`")
    };
    let values = pairs
        .batch()
        .column_by_name(name)
        .and_then(|c| c.as_string_opt::<i32>())
        .ok_or_else(missing)?;
    if values.is_valid(row) { Ok(values.value(row).to_owned()) } else { Err(missing()) }
}

/// The class of a label by name, else by number.
pub(crate) fn class_of(label: &str, classes: &[String]) -> Result<u32> {
    let by_number = || label.parse::<usize>().ok().filter(|n| *n < classes.len());
    let found = classes.iter().position(|class| class == label).or_else(by_number);
    found.map(|class| class as u32).ok_or_else(|| {
        Error::input(format!("the label `{label}` is none of the {} classes", classes.len()))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, BinaryArray};
    use stage::{PairRow, PairsBuilder, Status};

    use super::*;

    fn sample(member: &str, bytes: Option<&[u8]>) -> Pairs {
        let mut builder = PairsBuilder::default();
        builder.push(PairRow {
            uid: "",
            key: "s1",
            url: "",
            caption: "",
            status: Status::Success,
            error_message: None,
            size: None,
            original_size: None,
            sha256: None,
            image: None,
        });
        let column: ArrayRef = Arc::new(BinaryArray::from(vec![bytes]));
        builder.finish().with_column(member, column).unwrap()
    }

    #[test]
    fn a_class_is_a_number_below_the_number_of_classes() {
        assert_eq!(class(&sample("cls", Some(b"2")), 0, 3).unwrap(), Some(2));
        assert_eq!(class(&sample("cls", Some(b" 0\n")), 0, 3).unwrap(), Some(0));
        assert_eq!(class(&sample("cls", None), 0, 3).unwrap(), None);
        assert_eq!(class(&sample("txt", Some(b"2")), 0, 3).unwrap(), None);
        for (text, expected) in [
            (&b"3"[..], "class 3, and there are 3 classes"),
            (b"-1", "class -1"),
            (b"cat", "no number"),
            (b"\xff", "no number"),
        ] {
            let error = class(&sample("cls", Some(text)), 0, 3).unwrap_err().to_string();
            assert!(error.starts_with("s1: ") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn metadata_of_every_type_become_whole_numbers() {
        let mut bytes = Vec::new();
        store::npy::write(&mut bytes, &[3], &[1.9_f64, 0.0, 7.0]).unwrap();
        assert_eq!(numbers(&sample("npy", Some(&bytes)), 0).unwrap(), Some(vec![1, 0, 7]));
        let mut bytes = Vec::new();
        store::npy::write(&mut bytes, &[2], &[-4_i64, 1 << 40]).unwrap();
        assert_eq!(numbers(&sample("npy", Some(&bytes)), 0).unwrap(), Some(vec![-4, 1 << 40]));
        let mut bools = Vec::new();
        store::npy::write(&mut bools, &[3], &[1_u8, 0, 1]).unwrap();
        let at = bools.windows(3).position(|w| w == b"|u1").unwrap();
        bools[at + 1] = b'b';
        assert_eq!(numbers(&sample("npy", Some(&bools)), 0).unwrap(), Some(vec![1, 0, 1]));
        assert!(numbers(&sample("npy", Some(b"no npy")), 0).is_err());
    }

    #[test]
    fn a_label_is_a_name_before_it_is_a_number() {
        let classes = ["1", "zero"].map(str::to_owned);
        assert_eq!(class_of("1", &classes).unwrap(), 0);
        assert_eq!(class_of("0", &classes).unwrap(), 0);
        assert_eq!(class_of("zero", &classes).unwrap(), 1);
        assert!(class_of("2", &classes).unwrap_err().to_string().contains("none of the 2"));
    }
}

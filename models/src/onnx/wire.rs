//! Protobuf's wire format: fields by number, nothing believed about lengths.
//!
//! Source: protobuf.dev, "Encoding": varint, 64-bit, length-delimited, 32-bit; groups are refused.

use stage::{Error, Result};

/// One field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    /// Eight bytes: nothing that is read here has them.
    Bits64,
    Bytes(&'a [u8]),
    Bits32([u8; 4]),
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(broken("a number where a text or a message belongs")),
        }
    }

    pub(super) fn text(self) -> Result<String> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| broken("a name that is not UTF-8"))
    }

    pub(super) fn int(self) -> Result<i64> {
        match self {
            Self::Varint(number) => Ok(number.cast_signed()),
            _ => Err(broken("something else where an integer belongs")),
        }
    }

    pub(super) fn float(self) -> Result<f32> {
        match self {
            Self::Bits32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(broken("something else where a float belongs")),
        }
    }

    /// A repeated integer: one, or many packed; `most` in all, since a byte of the file becomes
    /// eight here.
    pub(super) fn ints(self, into: &mut Vec<i64>, most: usize) -> Result<()> {
        match self {
            Self::Varint(number) => into.push(number.cast_signed()),
            Self::Bytes(mut rest) => {
                while !rest.is_empty() && into.len() <= most {
                    into.push(varint(&mut rest)?.cast_signed());
                }
            }
            _ => return Err(broken("something else where integers belong")),
        }
        at_most(into.len(), most)
    }

    /// A repeated float: one, or many packed; `most` in all.
    pub(super) fn floats(self, into: &mut Vec<f32>, most: usize) -> Result<()> {
        match self {
            Self::Bits32(bytes) => into.push(f32::from_le_bytes(bytes)),
            Self::Bytes(bytes) => {
                let (numbers, rest) = bytes.as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(broken("floats that end in the middle"));
                }
                at_most(into.len().saturating_add(numbers.len()), most)?;
                into.extend(numbers.iter().map(|n| f32::from_le_bytes(*n)));
            }
            _ => return Err(broken("something else where floats belong")),
        }
        at_most(into.len(), most)
    }
}

fn at_most(count: usize, most: usize) -> Result<()> {
    if count <= most {
        return Ok(());
    }
    Err(Error::model(format!("a list of more than {most} numbers")))
}

/// The fields of a message in their order.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = field(&mut self.0);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Value<'a>)> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Varint(varint(rest)?),
        1 => {
            array::<8>(rest)?;
            Value::Bits64
        }
        2 => {
            let length = usize::try_from(varint(rest)?).unwrap_or(usize::MAX);
            Value::Bytes(take(rest, length)?)
        }
        5 => Value::Bits32(array(rest)?),
        kind => return Err(broken(&format!("a field of wire type {kind}"))),
    };
    Ok((key >> 3, value))
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut number = 0u64;
    for place in 0..10 {
        let [byte] = array::<1>(rest)?;
        number |= u64::from(byte & 0x7f).checked_shl(7 * place).unwrap_or(0);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(broken("an integer of more than ten bytes"))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let Some((head, tail)) = rest.split_at_checked(count) else {
        return Err(broken(&format!("{count} bytes announced where {} are left", rest.len())));
    };
    *rest = tail;
    Ok(head)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    take(rest, N)?.try_into().map_err(|_| broken("a number cut off"))
}

pub(super) fn broken(what: &str) -> Error {
    Error::model(format!("no ONNX file: {what}"))
        .hint("copy the file again; it was cut off, or is a file of another kind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_field_by_field() {
        // Field 1: varint 150; field 2: "hi"; field 3: 1.5f32; field 4: packed 1, 300.
        let bytes = [8, 150, 1, 18, 2, b'h', b'i', 29, 0, 0, 192, 63, 34, 3, 1, 172, 2];
        let fields: Vec<_> = Fields(&bytes).map(Result::unwrap).collect();
        assert_eq!(fields.iter().map(|f| f.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(fields[0].1.int().unwrap(), 150);
        assert_eq!(fields[1].1.text().unwrap(), "hi");
        assert_eq!(fields[2].1.float().unwrap(), 1.5);
        let mut ints = Vec::new();
        fields[3].1.ints(&mut ints, 2).unwrap();
        assert_eq!(ints, [1, 300]);
        assert!(fields[3].1.ints(&mut ints, 3).is_err());
    }

    #[test]
    fn what_is_cut_off_or_announces_too_much_is_an_error_and_ends_the_message() {
        for bytes in [&[8u8][..], &[18, 200, 1, 0], &[29, 0], &[11], &[8; 1], &[255; 12]] {
            let fields: Vec<_> = Fields(bytes).collect();
            assert!(fields.len() == 1 && fields[0].is_err(), "{bytes:?}");
        }
    }
}

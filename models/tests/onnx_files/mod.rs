//! Writes small ONNX files: the fields of `onnx.proto` that a test needs.

/// A field with bytes.
pub(crate) fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut all = varint(number << 3 | 2);
    all.extend(varint(bytes.len() as u64));
    all.extend_from_slice(bytes);
    all
}

fn number(field: u64, value: i64) -> Vec<u8> {
    let mut all = varint(field << 3);
    all.extend(varint(value.cast_unsigned()));
    all
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut all = Vec::new();
    while number >= 0x80 {
        all.push(number as u8 | 0x80);
        number >>= 7;
    }
    all.push(number as u8);
    all
}

fn attribute(name: &str, kind: i64, value: &[u8]) -> Vec<u8> {
    [field(1, name.as_bytes()), value.to_vec(), number(20, kind)].concat()
}

pub(crate) fn int(name: &str, value: i64) -> Vec<u8> {
    attribute(name, 2, &number(3, value))
}

pub(crate) fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    attribute(name, 7, &values.iter().flat_map(|v| number(8, *v)).collect::<Vec<u8>>())
}

pub(crate) fn floats(name: &str, values: &[f32]) -> Vec<u8> {
    attribute(name, 6, &field(7, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()))
}

pub(crate) fn text(name: &str, value: &str) -> Vec<u8> {
    attribute(name, 3, &field(4, value.as_bytes()))
}

/// A node; inputs and outputs are names with blanks between them, `-` for one left out.
pub(crate) fn node(op: &str, inputs: &str, outputs: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let names = |number: u64, names: &str| -> Vec<u8> {
        let names = names.split_whitespace();
        names.flat_map(|n| field(number, if n == "-" { b"" } else { n.as_bytes() })).collect()
    };
    let attributes = attributes.iter().flat_map(|a| field(5, a)).collect();
    [names(1, inputs), names(2, outputs), field(4, op.as_bytes()), attributes].concat()
}

fn tensor(name: &str, kind: i64, shape: &[i64], raw: &[u8]) -> Vec<u8> {
    let shape = shape.iter().flat_map(|side| number(1, *side)).collect();
    [shape, number(2, kind), field(8, name.as_bytes()), field(9, raw)].concat()
}

pub(crate) fn weight(name: &str, shape: &[i64], values: &[f32]) -> Vec<u8> {
    tensor(name, 1, shape, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

pub(crate) fn indices(name: &str, shape: &[i64], values: &[i64]) -> Vec<u8> {
    tensor(name, 7, shape, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

/// An input or output.
fn value(name: &str, shape: &[i64]) -> Vec<u8> {
    let dims: Vec<u8> = shape.iter().flat_map(|side| field(1, &number(1, *side))).collect();
    let kind = field(1, &[number(1, 1), field(2, &dims)].concat());
    [field(1, name.as_bytes()), field(2, &kind)].concat()
}

/// A file with an input `x` of this shape.
pub(crate) fn model(
    opset: i64,
    x: &[i64],
    nodes: &[Vec<u8>],
    weights: &[Vec<u8>],
    outputs: &[&str],
) -> Vec<u8> {
    let mut graph: Vec<u8> = nodes.iter().flat_map(|node| field(1, node)).collect();
    graph.extend(weights.iter().flat_map(|weight| field(5, weight)));
    graph.extend(field(11, &value("x", x)));
    graph.extend(outputs.iter().flat_map(|name| field(12, &value(name, &[]))));
    [field(7, &graph), field(8, &number(2, opset))].concat()
}

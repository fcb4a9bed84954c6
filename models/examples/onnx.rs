//! Runs an ONNX network on inputs of raw little-endian f32 and writes its outputs the same way.
//!
//! `onnx MODEL INPUT N,C,H,W OUTPUT`: INPUT holds any number of inputs of this shape, OUTPUT gets
//! all outputs of the first, of the second, and so on. `bench/interop/onnx_equal.py` holds them
//! against onnxruntime's.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use models::onnx::{Array, Onnx};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    kernels::keep_freed_memory(); // as the program does
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, shape, output] = arguments.as_slice() else {
        return Err("onnx MODEL INPUT N,C,H,W OUTPUT".into());
    };
    let shape = shape.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let network = Onnx::open(std::path::Path::new(model))?;
    let bytes = std::fs::read(input)?;
    let (numbers, _) = bytes.as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().map(|n| f32::from_le_bytes(*n)).collect();
    let (mut out, mut inputs, began) = (Vec::new(), 0, Instant::now());
    for input in numbers.chunks_exact(shape.iter().product::<usize>().max(1)) {
        for value in network.run(Array::new(&shape, input.to_vec())?)? {
            out.extend(value.floats()?.iter().flat_map(|x| x.to_le_bytes()));
        }
        inputs += 1;
    }
    println!("{:.2} inputs/s", f64::from(inputs) / began.elapsed().as_secs_f64());
    std::fs::write(output, out)?;
    Ok(())
}

//! ONNX networks from elsewhere.

use models::onnx::{Array, Onnx};

/// Numbers of an input; a side of any length gets 4.
const MOST_NUMBERS: usize = 1 << 12;

/// A network that is read runs or says why not, twice with the same bits.
pub fn run(data: &[u8]) {
    let Ok(network) = Onnx::read(data) else { return };
    let shape: Vec<usize> = network.input().1.iter().map(|side| side.unwrap_or(4)).collect();
    let numbers = shape.iter().try_fold(1_usize, |n, side| n.checked_mul(*side));
    let Some(numbers) = numbers.filter(|n| *n <= MOST_NUMBERS) else { return };
    let input: Vec<f32> = (0..numbers).map(|i| (i % 7) as f32 / 3.0 - 1.0).collect();
    let run = || network.run(Array::new(&shape, input.clone())?);
    let Ok(outputs) = run() else { return };
    assert_eq!(outputs.len(), network.outputs().count());
    let again = run().expect("what ran once");
    for (one, other) in outputs.iter().zip(&again) {
        assert_eq!(one.shape(), other.shape());
        let bits = |array: &Array| {
            array.floats().map(|all| all.iter().map(|x| x.to_bits()).collect::<Vec<_>>()).ok()
        };
        let sides: usize = one.shape().iter().product();
        assert!(bits(one).is_none_or(|all| all.len() == sides), "{:?}", one.shape());
        assert_eq!(bits(one), bits(other));
    }
}

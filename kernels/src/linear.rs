//! The linear layer `x wᵀ + b`.

use candle_core::{CpuStorage, Result, Shape, Tensor, TensorId};
use rayon::prelude::*;

use crate::collect::collect;
use crate::composed;
use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::gemm::{Matrix, new_product, product};
use crate::half_product::{half_product, new_half_product};
use crate::rows::{PIECE, add_to};
use crate::simd::{Level, Work};
use crate::slices::{check, tensor, values, with_float};

/// Number format of the products of linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// f32.
    #[default]
    F32,
    /// Both factors rounded to bf16, sums and everything else f32; in the forward pass and in both
    /// products of the backward pass. The same bits on machines with and without AVX512-BF16, for
    /// sums that stay between the smallest normal number and the largest finite one: the instruction
    /// takes numbers below as zero, and may end differently in infinities and NaN.
    Bf16,
}

impl Products {
    /// `into += a b` on slices, row after row.
    ///
    /// # Shapes
    /// `a` (M, K), `b` (K, N), `into` (M, N), with `sizes` [M, K, N]
    ///
    /// # Errors
    /// Slices of other lengths.
    pub fn add_product(
        self,
        into: &mut [f32],
        a: &[f32],
        b: &[f32],
        sizes: [usize; 3],
    ) -> Result<()> {
        let [m, k, n] = sizes;
        let fits = |length: usize, x: usize, y: usize| x.checked_mul(y) == Some(length);
        if !fits(a.len(), m, k) || !fits(b.len(), k, n) || !fits(into.len(), m, n) {
            let lengths = [a.len(), b.len(), into.len()];
            candle_core::bail!("add_product: {lengths:?} numbers for {sizes:?}");
        }
        if into.is_empty() || k == 0 {
            return Ok(());
        }
        self.of(into, true, Matrix::new(a, m, k), Matrix::new(b, k, n))
    }

    /// `into = a b`, or `into += a b` if `add`.
    pub(crate) fn of<T: Float>(
        self,
        into: &mut [T],
        add: bool,
        a: Matrix<T>,
        b: Matrix<T>,
    ) -> Result<()> {
        match (self, a.single(), b.single()) {
            (Self::F32, ..) => product(into, add, a, b),
            (Self::Bf16, Some(a), Some(b)) => {
                if let Some(into) = T::single_mut(into) {
                    half_product(into, add, a, b);
                }
            }
            _ => candle_core::bail!("products in bf16 take f32, got {:?}", T::DTYPE),
        }
        Ok(())
    }

    /// `a b`, plus the same row everywhere if there is one.
    pub(crate) fn new_product<T: Float>(
        self,
        a: Matrix<T>,
        b: Matrix<T>,
        row: Option<&[T]>,
    ) -> Result<Vec<T>> {
        if self == Self::F32 {
            return Ok(new_product(a, b, row));
        }
        let row = row.map(|row| T::single(row).unwrap_or_default());
        let y = match (a.single(), b.single()) {
            (Some(a), Some(b)) => T::of_singles(new_half_product(a, b, row)),
            _ => None,
        };
        y.ok_or_else(|| {
            candle_core::Error::Msg(format!("products in bf16 take f32, got {:?}", T::DTYPE))
        })
    }
}

/// `x wᵀ + bias`, with gradients for all tensors.
///
/// In f32 the product is that of this crate; the bits are the same at any number of threads.
///
/// # Shapes
/// `x` (.., K), `weight` (N, K), `bias` (N) → (.., N)
///
/// # Errors
/// Other shapes, or dtypes than one of f32 and f64.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    linear_in(x, weight, bias, Products::F32)
}

/// [`linear()`] with products of this format.
///
/// # Shapes
/// `x` (.., K), `weight` (N, K), `bias` (N) → (.., N)
///
/// # Errors
/// As [`linear()`]; [`Products::Bf16`] takes f32 alone.
pub fn linear_in(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    products: Products,
) -> Result<Tensor> {
    check("linear", x)?;
    let bad = match (x.dims().last(), weight.dims()) {
        (Some(k), [n, columns]) => k != columns || bias.is_some_and(|b| b.dims() != [*n]),
        _ => true,
    };
    if bad {
        candle_core::bail!(
            "linear: x {:?}, weight {:?}, bias {:?}; expected (.., K), (N, K), (N)",
            x.dims(),
            weight.dims(),
            bias.map(Tensor::dims)
        );
    }
    if composed::takes(x) {
        return composed::linear(x, weight, bias, products);
    }
    match bias {
        Some(bias) => apply(Linear { products }, &[x, weight, bias]),
        None => apply(Linear { products }, &[x, weight]),
    }
}

/// `x w`, with gradients for both tensors; [`linear()`] without bias for a weight that lies the
/// other way round, as CLIP's projections do.
///
/// # Shapes
/// `x` (.., K), `weight` (K, N) → (.., N)
///
/// # Errors
/// Other shapes, or dtypes than one of f32 and f64.
pub fn project(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    check("project", x)?;
    match (x.dims().last(), weight.dims()) {
        (Some(k), [rows, _]) if k == rows && composed::takes(x) => composed::project(x, weight),
        (Some(k), [rows, _]) if k == rows => apply(Project, &[x, weight]),
        _ => candle_core::bail!(
            "project: x {:?}, weight {:?}; expected (.., K), (K, N)",
            x.dims(),
            weight.dims()
        ),
    }
}

struct Project;

impl Fused for Project {
    fn name(&self) -> &'static str {
        "project"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [x, weight] = inputs else { candle_core::bail!("project takes 2 tensors") };
        let (k, n) = weight.dims2()?;
        let mut shape = x.dims().to_vec();
        shape.pop();
        let rows = shape.iter().product();
        shape.push(n);
        with_float!("project", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "project")?, values::<T>(weight, "project")?);
            let mut y = vec![<T as Float>::ZERO; rows * n];
            product(&mut y, false, Matrix::new(&xs, rows, k), Matrix::new(&w, k, n));
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), Shape::from(shape)))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, weight] = inputs else { candle_core::bail!("project takes 2 tensors") };
        let (k, n) = weight.dims2()?;
        with_float!("project", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "project")?, values::<T>(weight, "project")?);
            let dy = values::<T>(grad, "project")?;
            let rows = rows_of(x);
            let mut dx = vec![<T as Float>::ZERO; xs.len()];
            let (dys, ws) = (Matrix::new(&dy, rows, n), Matrix::new(&w, k, n));
            product(&mut dx, false, dys, ws.transposed());
            let mut dw = vec![<T as Float>::ZERO; w.len()];
            product(&mut dw, false, Matrix::new(&xs, rows, k).transposed(), dys);
            Ok(vec![Some(tensor(dx, x.shape())?), Some(tensor(dw, (k, n))?)])
        })
    }
}

struct Linear {
    products: Products,
}

impl Fused for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let (n, k) = weight.dims2()?;
        let mut shape = x.dims().to_vec();
        shape.pop();
        let rows = shape.iter().product();
        shape.push(n);
        with_float!("linear", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "linear")?, values::<T>(weight, "linear")?);
            let bias = match inputs.get(2) {
                Some(bias) => Some(values::<T>(bias, "linear")?),
                None => None,
            };
            let y = forward(self.products, &xs, &w, bias.as_deref(), (rows, n, k))?;
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), Shape::from(shape)))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        self.backward_collected(inputs, &[], output, grad)
    }

    fn backward_collected(
        &self,
        inputs: &[Tensor],
        ids: &[TensorId],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let (n, k) = weight.dims2()?;
        with_float!("linear", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "linear")?, values::<T>(weight, "linear")?);
            let dy = values::<T>(grad, "linear")?;
            let sizes = (rows_of(x), n, k);
            let dx = backward_x(self.products, &dy, &w, sizes)?;
            let dw = backward_w(self.products, ids.get(1), &dy, &xs, sizes)?;
            let mut all = vec![Some(tensor(dx, x.shape())?), dw];
            if inputs.len() > 2 {
                all.push(Some(tensor(column_sums(Level::best(), &dy, n), n)?));
            }
            Ok(all)
        })
    }
}

/// Rows of (.., K), also of rows without numbers.
fn rows_of(x: &Tensor) -> usize {
    x.dims().split_last().map_or(0, |(_, rows)| rows.iter().product())
}

/// x wᵀ + bias for (rows, n, k).
pub(crate) fn forward<T: Float>(
    products: Products,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    (rows, n, k): (usize, usize, usize),
) -> Result<Vec<T>> {
    products.new_product(Matrix::new(x, rows, k), Matrix::new(w, n, k).transposed(), bias)
}

/// dy w for (rows, n, k).
pub(crate) fn backward_x<T: Float>(
    products: Products,
    dy: &[T],
    w: &[T],
    (rows, n, k): (usize, usize, usize),
) -> Result<Vec<T>> {
    products.new_product(Matrix::new(dy, rows, n), Matrix::new(w, n, k), None)
}

/// dyᵀ x for (rows, n, k), where the gradient of this weight is collected, else as a tensor.
pub(crate) fn backward_w<T: Float>(
    products: Products,
    id: Option<&TensorId>,
    dy: &[T],
    x: &[T],
    (rows, n, k): (usize, usize, usize),
) -> Result<Option<Tensor>> {
    let (dy, x) = (Matrix::new(dy, rows, n), Matrix::new(x, rows, k));
    let of = |into: &mut [T], add: bool| products.of(into, add, dy.transposed(), x);
    if let Some(done) = collect(id, n * k, of) {
        return done.map(|()| None);
    }
    let dw = products.new_product(dy.transposed(), x, None)?;
    Ok(Some(tensor(dw, (n, k))?))
}

/// Σ over rows, in pieces of [`PIECE`] rows.
pub(crate) fn column_sums<T: Float>(level: Level, x: &[T], width: usize) -> Vec<T> {
    let pieces = x.len().div_ceil((PIECE * width).max(1));
    let mut sums = vec![T::ZERO; pieces * width];
    sums.par_chunks_mut(width.max(1))
        .zip(x.par_chunks((PIECE * width).max(1)))
        .for_each(|(sums, x)| level.run(ColumnSums { x, sums }));
    let mut total = vec![T::ZERO; width];
    for sums in sums.chunks_exact(width.max(1)) {
        add_to(&mut total, sums);
    }
    total
}

struct ColumnSums<'a, T> {
    x: &'a [T],
    sums: &'a mut [T],
}

impl<T: Float> Work for ColumnSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for row in self.x.chunks_exact(self.sums.len()) {
            add_to(self.sums, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn layers_without_outputs_or_inputs_have_gradients_without_numbers_or_of_zeros() {
        let var = |rows: usize, columns: usize| {
            Var::from_tensor(
                &Tensor::ones((rows, columns), candle_core::DType::F32, &Device::Cpu).unwrap(),
            )
            .unwrap()
        };
        for (n, k) in [(0, 3), (3, 0), (0, 0)] {
            let (x, w, turned) = (var(2, k), var(n, k), var(k, n));
            let bias =
                Var::from_tensor(&Tensor::ones(n, candle_core::DType::F32, &Device::Cpu).unwrap())
                    .unwrap();
            for y in [
                linear(&x, &w, Some(&bias)).unwrap(),
                linear(&x, &w, None).unwrap(),
                linear_in(&x, &w, None, Products::Bf16).unwrap(),
                project(&x, &turned).unwrap(),
            ] {
                assert_eq!(y.dims(), [2, n]);
                let gradients = y.sum_all().unwrap().backward().unwrap();
                let dx = gradients.get(&x).unwrap();
                assert_eq!(dx.to_vec2::<f32>().unwrap(), vec![vec![0.0; k]; 2]);
            }
        }
    }

    #[test]
    fn a_product_of_slices_is_added_and_wrong_lengths_are_refused() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]);
        let mut c = [1.0; 4];
        Products::F32.add_product(&mut c, &a, &b, [2, 3, 2]).unwrap();
        assert_eq!(c, [6.0, 12.0, 15.0, 24.0]);
        assert!(Products::F32.add_product(&mut c, &a, &b, [2, 2, 2]).is_err());
        assert!(Products::F32.add_product(&mut c, &a, &b, [usize::MAX, 2, 2]).is_err());
        Products::F32.add_product(&mut c, &[], &[], [2, 0, 2]).unwrap();
        assert_eq!(c, [6.0, 12.0, 15.0, 24.0]);
    }
}

//! Operators whose whole forward and backward pass is ours, with any number of inputs.
//!
//! candle's custom operators take at most three inputs. An operator with more hands the rest
//! through `Pack` nodes: scalars without meaning that depend on up to three tensors. The backward
//! pass of the operator computes all gradients at once and leaves those of the packed inputs in a
//! shared place, from which the packs take them: in a backward pass every node comes after all that
//! depend on it, so they find them there. On a GPU parameters whose gradients are collected
//! ([`crate::CollectedTensors`]) are no part of the graph at all.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape,
    Storage, Tensor, TensorId,
};

use crate::collect_tensors::{all_collected, collect_tensor};

/// An operator with its own backward pass.
pub(crate) trait Fused: Send + Sync + 'static {
    /// Its name in error messages.
    fn name(&self) -> &'static str;

    /// The result and its shape, on the CPU.
    fn forward(&self, _: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("{} runs on another device than the CPU", self.name())
    }

    /// The same for inputs on any device; [`Fused::forward`] is what it is on the CPU.
    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        self.forward(inputs).map(|(storage, shape)| (Storage::Cpu(storage), shape))
    }

    /// The gradients of the inputs; None where there is none (indices).
    fn backward(
        &self,
        inputs: &[Tensor],
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<Vec<Option<Tensor>>>;

    /// The same; gradients of inputs whose id a [`crate::Collected`] waits for may go there, with
    /// None in their place.
    fn backward_collected(
        &self,
        inputs: &[Tensor],
        _: &[TensorId],
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        self.backward(inputs, output, gradient)
    }
}

/// Applies the operator to 1 or more tensors, all contiguous from here on.
pub(crate) fn apply(operator: impl Fused, inputs: &[&Tensor]) -> Result<Tensor> {
    let inputs = inputs.iter().map(|t| t.contiguous()).collect::<Result<Vec<_>>>()?;
    let values: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
    let result = operator.forward_anywhere(&values)?;
    let node = Node {
        operator: Arc::new(operator),
        ids: inputs.iter().map(Tensor::id).collect(),
        result: Mutex::new(Some(result)),
        packed: Arc::default(),
    };
    match inputs.as_slice() {
        [a] => a.apply_op1(node),
        [a, b] => a.apply_op2(b, node),
        [a, b, c] => a.apply_op3(b, c, node),
        // On a GPU every pack is some tiny kernels.
        [a, rest @ ..] if !a.device().is_cpu() && held(a, rest) => {
            let tracked = rest.iter().map(Tensor::track_op).collect();
            a.apply_op1(Held { node, rest: values[1..].to_vec(), tracked })
        }
        [a, rest @ ..] => {
            let pack = pack(rest, &node.packed)?;
            let all = AllOf { node, rest: values[1..].to_vec() };
            a.apply_op2(&pack, all)
        }
        [] => candle_core::bail!("{} has no input", node.operator.name()),
    }
}

/// Whether no gradient of `rest` goes through the graph: there is none, or it is collected by a
/// backward pass that comes here by way of `a`.
fn held(a: &Tensor, rest: &[Tensor]) -> bool {
    let mut tracked = rest.iter().filter(|t| t.track_op()).peekable();
    tracked.peek().is_none() || (a.track_op() && all_collected(tracked))
}

type Shared<T> = Arc<Mutex<T>>;

struct Node<F> {
    operator: Arc<F>,
    /// Of the inputs as the graph knows them.
    ids: Vec<TensorId>,
    result: Mutex<Option<(Storage, Shape)>>,
    packed: Shared<Vec<Option<Tensor>>>,
}

impl<F: Fused> Node<F> {
    fn take(&self) -> Result<(Storage, Shape)> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.ok_or_else(|| candle_core::Error::Msg(format!("{} ran twice", self.operator.name())))
    }

    fn take_cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            _ => candle_core::bail!("{}: a result on another device", self.operator.name()),
        }
    }

    fn take_cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            _ => candle_core::bail!("{}: a result on another device", self.operator.name()),
        }
    }

    fn gradients(
        &self,
        inputs: &[&Tensor],
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let inputs: Vec<Tensor> = inputs.iter().map(|t| t.detach()).collect();
        let gradient = gradient.contiguous()?;
        self.operator.backward_collected(&inputs, &self.ids, &output.detach(), &gradient)
    }
}

impl<F: Fused> CustomOp1 for Node<F> {
    fn name(&self) -> &'static str {
        self.operator.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take_cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.take_cuda()
    }

    fn bwd(&self, a: &Tensor, output: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let mut all = self.gradients(&[a], output, gradient)?.into_iter();
        Ok(all.next().flatten())
    }
}

impl<F: Fused> CustomOp2 for Node<F> {
    fn name(&self) -> &'static str {
        self.operator.name()
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.take_cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.take_cuda()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut all = self.gradients(&[a, b], output, gradient)?.into_iter();
        Ok((all.next().flatten(), all.next().flatten()))
    }
}

impl<F: Fused> CustomOp3 for Node<F> {
    fn name(&self) -> &'static str {
        self.operator.name()
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.take_cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.take_cuda()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut all = self.gradients(&[a, b, c], output, gradient)?.into_iter();
        Ok((all.next().flatten(), all.next().flatten(), all.next().flatten()))
    }
}

/// An operator whose inputs after the first are packed.
struct AllOf<F> {
    node: Node<F>,
    rest: Vec<Tensor>,
}

impl<F: Fused> CustomOp2 for AllOf<F> {
    fn name(&self) -> &'static str {
        self.node.operator.name()
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.node.take_cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.node.take_cuda()
    }

    fn bwd(
        &self,
        first: &Tensor,
        _: &Tensor,
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut inputs = vec![first];
        inputs.extend(&self.rest);
        let mut all = self.node.gradients(&inputs, output, gradient)?.into_iter();
        let first = all.next().flatten();
        *self.node.packed.lock().unwrap_or_else(PoisonError::into_inner) = all.collect();
        Ok((first, Some(nothing(gradient.device())?)))
    }
}

/// An operator whose inputs after the first are no part of the graph.
struct Held<F> {
    node: Node<F>,
    rest: Vec<Tensor>,
    /// Which of them have a gradient.
    tracked: Vec<bool>,
}

impl<F: Fused> CustomOp1 for Held<F> {
    fn name(&self) -> &'static str {
        self.node.operator.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.node.take_cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.node.take_cuda()
    }

    fn bwd(&self, first: &Tensor, output: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let mut inputs = vec![first];
        inputs.extend(&self.rest);
        let mut all = self.node.gradients(&inputs, output, gradient)?.into_iter();
        let first = all.next().flatten();
        // What the operator did not collect itself.
        let rest = all.zip(&self.tracked).zip(self.node.ids.iter().skip(1));
        for ((gradient, tracked), id) in rest {
            let Some(gradient) = gradient.filter(|_| *tracked) else { continue };
            let write = |before: Option<&Tensor>| match before {
                Some(sum) => sum + &gradient,
                None => gradient.force_contiguous(),
            };
            match collect_tensor(Some(id), gradient.shape(), write) {
                Some(done) => done?,
                None => candle_core::bail!(
                    "{}: the gradients of its parameters are collected, go backward by \
                     CollectedTensors::backward",
                    self.name()
                ),
            }
        }
        Ok(first)
    }
}

/// A scalar that depends on `inputs`, whose gradients lie in `place` in the same order.
fn pack(inputs: &[Tensor], place: &Shared<Vec<Option<Tensor>>>) -> Result<Tensor> {
    let device = inputs.first().map_or(&Device::Cpu, Tensor::device);
    let mut next = nothing(device)?;
    for (i, pair) in inputs.chunks(2).enumerate() {
        let taker = Pack { place: Arc::clone(place), start: 2 * i, count: pair.len() };
        next = next.apply_op3(&pair[0], pair.get(1).unwrap_or(&pair[0]), taker)?;
    }
    Ok(next)
}

struct Pack {
    place: Shared<Vec<Option<Tensor>>>,
    start: usize,
    /// 2, or 1 where an odd last input stands in both places.
    count: usize,
}

impl CustomOp3 for Pack {
    fn name(&self) -> &'static str {
        "pack"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn cuda_fwd(
        &self,
        before: &CudaStorage,
        layout: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Ok((before.try_clone(layout)?, Shape::from(())))
    }

    fn bwd(
        &self,
        _: &Tensor,
        a: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let mut take = |i: usize| place.get_mut(i).and_then(Option::take);
        let first = take(self.start);
        let second = if self.count == 2 { take(self.start + 1) } else { None };
        Ok((Some(nothing(a.device())?), first, second))
    }
}

fn nothing(device: &Device) -> Result<Tensor> {
    Tensor::zeros((), DType::F32, device)
}

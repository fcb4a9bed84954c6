//! The device that models run on.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use stage::{Error, Result, ResultExt};

/// GPUs in use. candle takes a device that was opened twice for two devices, whose tensors do not go
/// together.
static OPEN: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());

/// The device of a [`stage::Context`], the same one each time.
///
/// # Errors
/// [`stage::Kind::Recipe`] for a GPU in a program without the feature `cuda`, [`stage::Kind::Model`]
/// where the driver refuses.
pub fn device(wanted: stage::Device) -> Result<Device> {
    let stage::Device::Cuda(number) = wanted else { return Ok(Device::Cpu) };
    if !candle_core::utils::cuda_is_available() {
        return Err(Error::recipe("--device cuda: this clipmill was built without GPUs").hint(
            "build it with `--features cuda`, see docs/gpu-and-cluster.md; or leave --device out",
        ));
    }
    let number = number.unwrap_or(0);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&number) {
        return Ok(device.clone());
    }
    let device = kernels::open_gpu(number)
        .model(format!("cannot open GPU {number}"))
        .map_err(|e| e.hint("`nvidia-smi` lists the GPUs; the driver must know CUDA 13"))?;
    open.insert(number, device.clone());
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_the_cpu() {
        assert!(device(stage::Device::Cpu).unwrap().is_cpu());
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_program_without_gpus_says_so() {
        let error = device(stage::Device::Cuda(None)).unwrap_err();
        assert_eq!(error.to_string(), "--device cuda: this clipmill was built without GPUs");
    }
}

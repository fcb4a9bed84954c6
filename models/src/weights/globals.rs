//! The names that a pickle may call, and what stands for each: none of them runs anything.
//!
//! The list is what `torch.save` writes for tensors and for the state of optimisers, what
//! TorchScript writes for modules, and plain records that are skipped.

use super::Dtype;

/// What a `module name` pair of the list stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor`(`_v2`): storage, offset, size, stride, ...
    Tensor,
    /// `torch._utils._rebuild_parameter`(`_with_state`) and TorchScript's type tag: the first
    /// argument with something beside it.
    First,
    /// A typed storage's class.
    Storage(Dtype),
    /// A class whose instances are skipped.
    Skipped,
    /// A function whose result is skipped.
    Function,
    /// A module's class in TorchScript.
    Module,
}

impl Global {
    /// The entry of the list; `script` says that the archive holds TorchScript, whose modules have
    /// classes of their own.
    pub(super) fn named(module: &str, name: &str, script: bool) -> Option<Self> {
        if script && module.split('.').next() == Some("__torch__") {
            return Some(Self::Module);
        }
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::Tensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
            | ("torch", "Size")
            | ("torch.jit._pickle", "restore_type_tag") => Self::First,
            ("torch" | "torch.storage", storage) if storage.ends_with("Storage") => {
                Self::Storage(Dtype::of_storage(storage)?)
            }
            // `argparse.Namespace`: the flags that many trainers save beside the weights.
            ("argparse", "Namespace") => Self::Skipped,
            // `scalar`, `dtype`, `encode`: a number of numpy's, such as a best score.
            ("torch", "device")
            | ("torch.serialization", "_get_layout")
            | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar")
            | ("numpy", "dtype")
            | ("_codecs", "encode")
            | (
                "torch.jit._pickle",
                "build_intlist" | "build_doublelist" | "build_boollist" | "build_tensorlist",
            ) => Self::Function,
            ("torch", dtype) if DTYPES.contains(&dtype) => Self::Skipped,
            _ => return None,
        })
    }
}

/// Types of torch that stand as plain names in a pickle.
const DTYPES: &[&str] = &[
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool",
];

impl Dtype {
    fn of_storage(name: &str) -> Option<Self> {
        Some(match name {
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::BF16,
            "DoubleStorage" => Self::F64,
            "LongStorage" => Self::Other("I64", 8),
            "IntStorage" => Self::Other("I32", 4),
            "ShortStorage" => Self::Other("I16", 2),
            "CharStorage" => Self::Other("I8", 1),
            "ByteStorage" | "UntypedStorage" => Self::Other("U8", 1),
            "BoolStorage" => Self::Other("BOOL", 1),
            _ => return None,
        })
    }
}

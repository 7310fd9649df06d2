//! Tensor maps as the hardware wants them.

use super::fault::cu;
use crate::backend::DeviceError;
use crate::backend::gpu::driver::{TensorMap, Value};
use cudarc::driver::sys;
use std::ffi::c_void;

/// A map as the hardware wants it.
pub fn encode(map: TensorMap) -> Result<Value, DeviceError> {
    use sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    use sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    use sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE;
    use sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
    use sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B;
    let mut value = Value([0; 16]);
    // Dimensions from the innermost one on, and the bytes from one row to the next.
    let (sizes, stride) = ([map.columns, map.rows], 2 * map.columns);
    let (box_sizes, steps) = ([64, map.box_rows], [1, 1]);
    // SAFETY: the value has the size and the alignment of a CUtensorMap; the arrays are as long as
    // two dimensions want them. The map's address is only noted.
    unsafe {
        cu!(cuTensorMapEncodeTiled(
            std::ptr::from_mut(&mut value).cast(),
            CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            map.base as *mut c_void,
            sizes.as_ptr(),
            &stride,
            box_sizes.as_ptr(),
            steps.as_ptr(),
            CU_TENSOR_MAP_INTERLEAVE_NONE,
            CU_TENSOR_MAP_SWIZZLE_128B,
            CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        ))?;
    }
    Ok(value)
}

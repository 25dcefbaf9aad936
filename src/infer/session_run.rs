//! One run of a session: a tensor in, a tensor out. On the caller's thread and the session's own; [`super::session_thread`] times it.
//!
//! Why not `Session::run` of the bindings: it wants the session for itself, because execution providers for GPUs cannot run one session
//! on two threads. The CPU's can: ONNX Runtime documents `Run` as callable from many threads at once, and its own kernels keep
//! their state in the run. That is how several of our sessions have the weights in memory once. Who holds a session
//! together with others answers for its provider being the CPU: see [`super::OrtImageEncoder::beside`].

use std::ffi::CString;
use std::ptr::{self, NonNull};

use ort::AsPointer;
use ort::session::{RunOptions, Session};
use ort::sys::OrtValue;
use ort::value::DynValue;

use super::InferError;

/// What a graph calls its input and the output that is wanted.
#[derive(Clone, Debug)]
pub struct Names {
    input: CString,
    output: CString,
}

impl Names {
    /// # Errors
    /// A name with a zero byte, which no graph can be asked for.
    pub fn new(input: &str, output: &str) -> Result<Self, InferError> {
        let name = |name: &str| {
            CString::new(name)
                .map_err(|_| InferError::Model(format!("the name {name:?} in the graph holds a zero byte")))
        };
        Ok(Self { input: name(input)?, output: name(output)? })
    }
}

/// Runs `session` on `input`, into `answer` where there is one of the right shape, otherwise into memory that the runtime takes.
///
/// # Errors
/// What ONNX Runtime says: no memory, told to end, or wrong shapes; `answer` is gone then.
pub fn run(
    session: &Session,
    options: &RunOptions,
    names: &Names,
    input: &impl AsPointer<Sys = OrtValue>,
    mut answer: Option<DynValue>,
) -> ort::Result<DynValue> {
    let inputs = [input.ptr()];
    let (input_names, output_names) = ([names.input.as_ptr()], [names.output.as_ptr()]);
    let mut outputs = [answer.as_mut().map_or(ptr::null_mut(), AsPointer::ptr_mut)];
    // SAFETY: all pointers are to living values of one element each, as the counts say; the runtime reads names and input during the call
    // alone. It writes the output in place, or puts a new one there. The session is behind a shared reference: nothing
    // of the bindings is changed through it, and the runtime's own state is guarded by itself (CPU) or by our holding it alone.
    let status = unsafe {
        (ort::api().Run)(
            session.ptr().cast_mut(),
            options.ptr(),
            input_names.as_ptr(),
            inputs.as_ptr(),
            inputs.len(),
            output_names.as_ptr(),
            output_names.len(),
            outputs.as_mut_ptr(),
        )
    };
    // SAFETY: the status comes from the runtime and is handed over.
    unsafe { ort::Error::result_from_status(status) }?;
    match (answer, NonNull::new(outputs[0])) {
        (Some(answer), _) => Ok(answer),
        // SAFETY: a value that the runtime has made for us, with the session's allocator.
        (None, Some(made)) => Ok(unsafe { DynValue::from_ptr(made, Some(session.allocator())) }),
        (None, None) => Err(ort::Error::new("the runtime gave no output")),
    }
}

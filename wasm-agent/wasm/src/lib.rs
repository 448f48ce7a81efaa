//! Raw WebAssembly exports around [`agent_core::Agent`]: numbers in, numbers out, bytes through two buffers that the page
//! reads and writes. There is one agent a module. Times are f64, exact up to 2^53 ms; strings travel as UTF-8.
//!
//! On any other target the crate is empty: what there is to compile is `agent_core`.
#![cfg_attr(target_arch = "wasm32", no_std)]

#[cfg(target_arch = "wasm32")]
mod exports;

#[cfg(target_arch = "wasm32")]
#[panic_handler]
fn trap(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

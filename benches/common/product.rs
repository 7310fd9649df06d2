//! Matrix products, and the libraries that know how to make them, loaded at run time.

use std::ffi::{CString, c_void};

/// `C[m, n] = A·B` over k, all row-major and without gaps; `A` or `B` may lie in memory transposed.
#[derive(Clone, Copy)]
pub struct Product {
    /// m, n and k.
    pub sizes: [usize; 3],
    /// `A` is `[k, m]` in memory, `B` is `[n, k]`.
    pub transposed: [bool; 2],
}

/// An open shared library, never closed.
pub struct Library(*mut c_void);

impl Library {
    /// None if the loader does not find it, or cannot load it.
    pub fn open(name: &str) -> Option<Library> {
        let name = CString::new(name).ok()?;
        // SAFETY: the name ends with a zero. Loading runs the initialisers of a library that
        // somebody installed for programs to load: they want nothing of us.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        (!library.is_null()).then_some(Library(library))
    }

    /// The function of a name.
    ///
    /// # Safety
    /// `F` must be a function pointer of that function's type.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let name = CString::new(name).ok()?;
        // SAFETY: the library is open and stays so; the name ends with a zero.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        // SAFETY: a pointer to a function, of which the caller says that `F` is its type.
        (!found.is_null()).then(|| unsafe { std::mem::transmute_copy(&found) })
    }
}

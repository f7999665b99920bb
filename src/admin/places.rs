//! Where the parts are served, and how much they take.

/// Begins the paths of pages.
pub const CONSOLE: &str = "/console";

/// Begins the paths of the API.
pub const API: &str = "/admin/api/v1";

/// Bytes of a body.
pub const LARGEST_BODY: usize = 256 * 1024;

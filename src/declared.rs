//! Kinds that are declared in files and carried out by an endpoint, not by this program.

mod declaration;

use std::sync::Arc;

use bytes::Bytes;

pub use self::declaration::{AfterUnknown, BodyForm, Declaration, Endpoint, Http, Mode};
use crate::{job::Context, pipeline::registry::Work};

/// Carries out jobs of declared kinds.
pub trait Carrier: Send + Sync {
    /// Carries out a job, whose body has the form that its declaration says.
    fn carry(&self, declaration: Arc<Declaration>, body: Bytes, cx: Context) -> Work;
}

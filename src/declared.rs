//! Kinds that are declared in files and carried out by an endpoint, not by this program.

mod declaration;

pub use self::declaration::{AfterUnknown, BodyForm, Declaration, Endpoint, Http, Mode};

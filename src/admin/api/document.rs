//! What any route may answer, added to the document at once: no route says it again, and none forgets it.

use utoipa::openapi::{
    Content, ContentBuilder, OpenApi, RefOr, ResponseBuilder,
    path::{Operation, PathItem},
    schema::Ref,
};

const JSON: &str = "application/json";

/// Of problem documents.
const PROBLEM: &str = "application/problem+json";

/// Of all routes.
const ALL: [(&str, &str); 5] = [
    ("401", "Not signed in"),
    ("403", "The role is not enough"),
    ("422", "A part of the path, a parameter or a field is malformed: it is named"),
    ("429", "Too many failed sign-ins from this address"),
    ("503", "A server is away"),
];

/// Of those that take a body.
const WITH_BODY: [(&str, &str); 2] = [("413", "The body is too large"), ("415", "The body is not JSON")];

/// Adds them.
pub fn complete(document: &mut OpenApi) {
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        for response in operation.responses.responses.values_mut() {
            let RefOr::T(response) = response else { continue };
            if response.content.get(JSON).is_some_and(is_problem) {
                let content = response.content.swap_remove(JSON);
                response.content.extend(content.map(|content| (PROBLEM.to_owned(), content)));
            }
        }
        let more = if operation.request_body.is_some() { WITH_BODY.as_slice() } else { &[] };
        for (status, meaning) in ALL.iter().chain(more) {
            operation.responses.responses.entry((*status).to_owned()).or_insert_with(|| {
                let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
                ResponseBuilder::new().description(*meaning).content(PROBLEM, content).build().into()
            });
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, post, put, delete, .. } = item;
    [get, post, put, delete].into_iter().filter_map(Option::as_mut)
}

/// The annotations call a problem JSON as any other.
fn is_problem(content: &RefOr<Content>) -> bool {
    let RefOr::T(content) = content else { return false };
    matches!(&content.schema, Some(RefOr::Ref(schema)) if schema.ref_location.ends_with("/Problem"))
}

//! The document that describes this API.

use axum::Json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{backup, cluster, eosc, health, history, kv, members, routes};

/// Everything there is.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "raft-rocks-server",
        description = "A node of a replicated key-value store."
    ),
    paths(
        routes::page,
        routes::metrics,
        get,
        health::livez,
        health::readyz,
        cluster::get,
        history::get,
        members::add,
        members::remove,
        members::transfer,
        members::snapshot,
        backup::get,
        kv::get,
        kv::put,
        kv::delete,
        eosc::set,
        eosc::add_node,
        eosc::delete_node,
        eosc::peer_list,
    ),
    modifiers(&Token),
    security((), ("token" = [])),
)]
struct Api;

/// Who may ask.
struct Token;

impl Modify for Token {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The token of --auth-token-file, where one is given."));
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme.build()));
    }
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "node",
    responses((status = 200, description = "OpenAPI 3.1.", content_type = "application/json"))
)]
pub async fn get() -> Json<utoipa::openapi::OpenApi> {
    Json(Api::openapi())
}

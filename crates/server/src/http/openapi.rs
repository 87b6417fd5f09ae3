//! The document that describes this API.

use axum::{Json, extract};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{State, backup, cluster, eosc, health, history, kv, members, routes};

const TOKEN: &str = "token";

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
)]
struct Api;

/// What a client shows.
struct Token;

impl Modify for Token {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The token of --auth-token-file, where one is given."));
        let components = api.components.get_or_insert_default();
        components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme.build()));
    }
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "node",
    responses((status = 200, description = "OpenAPI 3.1.", content_type = "application/json"))
)]
pub async fn get(extract::State(state): extract::State<State>) -> Json<utoipa::openapi::OpenApi> {
    let mut api = Api::openapi();
    if state.secret.is_some() {
        let scopes: [&str; 0] = [];
        api.security = Some(vec![SecurityRequirement::new(TOKEN, scopes)]);
    }
    Json(api)
}

//! Small things that are kept as given: registries and apps' configuration files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxrig_convox::{Done, Reply, models, ops};
use boxrig_wire::{ApiError, Request};

use super::Cx;
use super::records::Registry;
use super::state::{key, of_app};

fn registry(r: &Registry) -> models::Registry {
    let mut m = models::Registry::default();
    m.server = r.server.clone();
    m.username = r.username.clone();
    m.password = r.password.as_str().into();
    m
}

pub(super) async fn registries(
    cx: Cx,
    _: Request<ops::registries::RegistryList>,
) -> Result<Reply<Vec<models::Registry>>, ApiError> {
    let all = cx.registries.list();
    Ok(Reply(all.iter().map(|r| registry(r)).collect()))
}

pub(super) async fn add_registry(
    cx: Cx,
    rq: Request<ops::registries::RegistryAdd>,
) -> Result<Reply<models::Registry>, ApiError> {
    let form = rq.body.0;
    if form.server.is_empty() || form.server.chars().any(|c| c.is_control() || c == ' ') {
        return Err(ApiError::invalid(format!(
            "invalid registry server: {:?}",
            form.server
        )));
    }
    let r = Registry {
        server: form.server,
        username: form.username,
        password: form.password.expose().to_owned(),
    };
    let kept = r.clone();
    cx.core
        .store
        .write(|tx| {
            tx.put(&cx.registries, &kept.server.clone(), kept)?;
            Ok::<_, ApiError>(())
        })
        .await?;
    Ok(Reply(registry(&r)))
}

pub(super) async fn remove_registry(
    cx: Cx,
    rq: Request<ops::registries::RegistryRemove>,
) -> Result<Done, ApiError> {
    forget_registry(&cx, &rq.path.0).await?;
    Ok(Done)
}

pub(super) async fn remove_registry_classic(
    cx: Cx,
    rq: Request<ops::v2_classic::RegistryRemoveClassic>,
) -> Result<Done, ApiError> {
    forget_registry(&cx, &rq.query.server.unwrap_or_default()).await?;
    Ok(Done)
}

async fn forget_registry(cx: &Cx, server: &str) -> Result<(), ApiError> {
    let gone = cx
        .core
        .store
        .write(|tx| Ok::<_, ApiError>(tx.delete(&cx.registries, server)))
        .await?;
    gone.map(|_| ())
        .ok_or_else(|| ApiError::not_found(format!("registry not found: {server}")))
}

fn config(name: &str, base64: &str) -> models::AppConfig {
    let bytes = STANDARD.decode(base64).unwrap_or_default();
    let mut m = models::AppConfig::default();
    m.name = name.to_owned();
    m.value = String::from_utf8_lossy(&bytes).into_owned().into();
    m
}

pub(super) async fn configs(
    cx: Cx,
    rq: Request<ops::configs::AppConfigList>,
) -> Result<Reply<Vec<models::AppConfig>>, ApiError> {
    let (app,) = rq.path;
    cx.app(&app)?;
    let all = of_app(&cx.configs, &app);
    Ok(Reply(all.iter().map(|(n, v)| config(n, v)).collect()))
}

pub(super) async fn get_config(
    cx: Cx,
    rq: Request<ops::configs::AppConfigGet>,
) -> Result<Reply<models::AppConfig>, ApiError> {
    let (app, name) = rq.path;
    cx.app(&app)?;
    let found = cx.configs.get(&key(&app, &name));
    let found =
        found.ok_or_else(|| ApiError::not_found(format!("app config not found: {name}")))?;
    Ok(Reply(config(&name, &found)))
}

pub(super) async fn set_config(
    cx: Cx,
    rq: Request<ops::configs::AppConfigSet>,
) -> Result<Done, ApiError> {
    let (app, name) = rq.path;
    cx.app(&app)?;
    let value = rq.body.0.value.expose().to_owned();
    STANDARD
        .decode(&value)
        .map_err(|e| ApiError::invalid(format!("failed to parse base 64 value: {e}")))?;
    cx.core
        .store
        .write(|tx| {
            tx.put(&cx.configs, &key(&app, &name), value)?;
            Ok::<_, ApiError>(())
        })
        .await?;
    Ok(Done)
}

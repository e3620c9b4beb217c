//! `GET /health`: the state of the server. A query parameter is set if it is present, whatever its value.

use poem::http::StatusCode;

use super::slots::slots;
use crate::api::options::RequestDefaults;
use crate::api::payload::WithStatus;
use crate::api::types::{Health, HealthStatus};
use crate::model::{Caller, ModelState, SlotCounts};

/// The query parameters, after the check that the caller may see the slots.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::api) struct HealthQuery {
    /// The caller for whom the response lists the slots; `None` for a response without slots.
    pub slots_for: Option<Caller>,
    /// Whether the status is 503 if all slots are busy.
    pub fail_on_no_slot: bool,
}

/// Handles `GET /health`.
pub(in crate::api) fn health(
    state: &ModelState,
    defaults: &RequestDefaults,
    query: HealthQuery,
) -> WithStatus<Health> {
    let model = match state {
        ModelState::Loading { .. } => {
            return health_without_slots(
                StatusCode::SERVICE_UNAVAILABLE,
                HealthStatus::LoadingModel,
            );
        }
        ModelState::Failed(_) => {
            return health_without_slots(StatusCode::INTERNAL_SERVER_ERROR, HealthStatus::Error);
        }
        ModelState::Ready(model) => model,
    };
    let Ok(counts) = model.health() else {
        return health_without_slots(StatusCode::INTERNAL_SERVER_ERROR, HealthStatus::Error);
    };
    let mut health = ready(&counts, query.fail_on_no_slot);
    if let Some(caller) = query.slots_for {
        health.value.slots = slots(model, defaults, caller).0;
    }
    health
}

fn ready(counts: &SlotCounts, fail_on_no_slot: bool) -> WithStatus<Health> {
    let (status, health_status) = match (counts.idle, fail_on_no_slot) {
        (1.., _) => (StatusCode::OK, HealthStatus::Ok),
        (0, false) => (StatusCode::OK, HealthStatus::NoSlotAvailable),
        (0, true) => (
            StatusCode::SERVICE_UNAVAILABLE,
            HealthStatus::NoSlotAvailable,
        ),
    };
    let mut health = health_without_slots(status, health_status);
    health.value.slots_idle = Some(counts.idle as u64);
    health.value.slots_processing = Some(counts.processing as u64);
    health
}

fn health_without_slots(status: StatusCode, health_status: HealthStatus) -> WithStatus<Health> {
    let value = Health {
        status: health_status,
        slots_idle: None,
        slots_processing: None,
        slots: Vec::new(),
    };
    WithStatus { status, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(health: &WithStatus<Health>, status: u16, body: &str) {
        assert_eq!(health.status.as_u16(), status);
        assert_eq!(serde_json::to_string(&health.value).unwrap(), body);
    }

    #[test]
    fn health_reports_each_server_state() {
        let health = |state| {
            let query = HealthQuery::default();
            health(&state, &RequestDefaults::default(), query)
        };
        check(
            &health(ModelState::Loading { done: 0.5 }),
            503,
            r#"{"status":"loading model"}"#,
        );
        check(
            &health(ModelState::Failed("cause".to_owned())),
            500,
            r#"{"status":"error"}"#,
        );
        let one_idle = SlotCounts {
            idle: 1,
            processing: 2,
        };
        let all_busy = SlotCounts {
            idle: 0,
            processing: 3,
        };
        check(
            &ready(&one_idle, true),
            200,
            r#"{"slots_idle":1,"slots_processing":2,"status":"ok"}"#,
        );
        let body = r#"{"slots_idle":0,"slots_processing":3,"status":"no slot available"}"#;
        check(&ready(&all_busy, false), 200, body);
        check(&ready(&all_busy, true), 503, body);
    }
}

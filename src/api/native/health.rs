//! `GET /health`: the five states of the server. Parameters count by their presence.

use poem::http::StatusCode;

use super::slots::slots;
use crate::api::options::Defaults;
use crate::api::payload::WithStatus;
use crate::api::types::{Health, HealthStatus};
use crate::model::{Caller, ModelState, SlotCounts};

/// What the caller wants to know.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::api) struct HealthQuestion {
    /// The caller to show the slots to, if it wants them and may see them.
    pub slots_for: Option<Caller>,
    /// Whether it is a failure that all slots are busy.
    pub fail_on_no_slot: bool,
}

/// The state of the server.
pub(in crate::api) fn health(
    state: &ModelState,
    defaults: &Defaults,
    question: HealthQuestion,
) -> WithStatus<Health> {
    let model = match state {
        ModelState::Loading { .. } => {
            return without_slots(StatusCode::SERVICE_UNAVAILABLE, HealthStatus::LoadingModel);
        }
        ModelState::Failed(_) => {
            return without_slots(StatusCode::INTERNAL_SERVER_ERROR, HealthStatus::Error);
        }
        ModelState::Ready(model) => model,
    };
    let Ok(counts) = model.health() else {
        return without_slots(StatusCode::INTERNAL_SERVER_ERROR, HealthStatus::Error);
    };
    let mut health = ready(&counts, question.fail_on_no_slot);
    if let Some(caller) = question.slots_for {
        health.value.slots = slots(model, defaults, caller).0;
    }
    health
}

fn ready(counts: &SlotCounts, fail_on_no_slot: bool) -> WithStatus<Health> {
    let (status, word) = match (counts.idle, fail_on_no_slot) {
        (1.., _) => (StatusCode::OK, HealthStatus::Ok),
        (0, false) => (StatusCode::OK, HealthStatus::NoSlotAvailable),
        (0, true) => (
            StatusCode::SERVICE_UNAVAILABLE,
            HealthStatus::NoSlotAvailable,
        ),
    };
    let mut health = without_slots(status, word);
    health.value.slots_idle = Some(counts.idle as u64);
    health.value.slots_processing = Some(counts.processing as u64);
    health
}

fn without_slots(status: StatusCode, word: HealthStatus) -> WithStatus<Health> {
    let value = Health {
        status: word,
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
    fn five_states() {
        let health = |state| {
            let question = HealthQuestion::default();
            health(&state, &Defaults::default(), question)
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
        let free = SlotCounts {
            idle: 1,
            processing: 2,
        };
        let busy = SlotCounts {
            idle: 0,
            processing: 3,
        };
        check(
            &ready(&free, true),
            200,
            r#"{"slots_idle":1,"slots_processing":2,"status":"ok"}"#,
        );
        let body = r#"{"slots_idle":0,"slots_processing":3,"status":"no slot available"}"#;
        check(&ready(&busy, false), 200, body);
        check(&ready(&busy, true), 503, body);
    }
}

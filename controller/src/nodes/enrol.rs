//! A key becomes a node's, for a join token's secret.

use std::time::Instant;

use controller_api::node as proto;
use controller_registry::{Input, Outcome, Refusal, RefusalKind, SecretHash};
use tonic::Status;

use super::{Caller, Shared, convert};

pub(super) async fn enrol(
    shared: &Shared,
    caller: Caller,
    request: proto::EnrolRequest,
) -> Result<proto::EnrolResponse, Status> {
    if !shared.enrolments.allow(caller.remote.ip(), Instant::now()) {
        shared.counters.enrolments_limited.add(1);
        return Err(Status::resource_exhausted(
            "too many enrolments from this address: try again in a minute",
        ));
    }
    let input = Input::Enrol {
        secret_hash: SecretHash(node_session::token::secret_hash(&request.secret)),
        public_key: caller.key,
        name_hint: convert::text(request.name, MAX_NAME),
    };
    match shared.engine.execute(input).await {
        Ok(Outcome::Enrolled { node, name, cluster }) => {
            shared.counters.enrolments.add(1);
            tracing::info!(%node, name, remote = %caller.remote, version = %convert::text(request.version, 64), "enrolled");
            Ok(proto::EnrolResponse { node_id: node.to_string(), node_name: name, cluster })
        }
        Ok(other) => {
            tracing::error!(?other, "an enrolment came to something else");
            Err(Status::internal("the enrolment failed: see the controller's log"))
        }
        Err(refusal) => {
            shared.counters.enrolments_refused.count(refusal.code);
            tracing::warn!(remote = %caller.remote, code = refusal.code, "enrolment refused: {refusal}");
            Err(status(refusal))
        }
    }
}

fn status(refusal: Refusal) -> Status {
    let message = refusal.message;
    match refusal.kind {
        RefusalKind::NotFound => Status::not_found(message),
        RefusalKind::Conflict => Status::failed_precondition(message),
        RefusalKind::Invalid { .. } => Status::invalid_argument(message),
        RefusalKind::Forbidden => Status::permission_denied(message),
        RefusalKind::Exhausted => Status::resource_exhausted(message),
        RefusalKind::NotReady => Status::unavailable(message),
        RefusalKind::Stale => Status::aborted(message),
    }
}

const MAX_NAME: usize = 253;

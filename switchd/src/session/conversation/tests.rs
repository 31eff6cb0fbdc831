use super::*;
use controller_api::node::{Goodbye, Registered, StateUpdate};

fn message(message: FromController) -> wire::ControllerToSwitch {
    wire::ControllerToSwitch { message: Some(message) }
}

fn registered() -> wire::ControllerToSwitch {
    message(FromController::Registered(Registered { heartbeat_ms: 1000, ..Registered::default() }))
}

#[test]
fn every_message_in_every_state() {
    let now = Instant::now();
    let beat = |answer| message(FromController::Heartbeat(Heartbeat { sequence: 3, answer }));
    let update = || message(FromController::Update(StateUpdate::default()));
    let goodbye = || message(FromController::Goodbye(Goodbye::default()));
    for early in [beat(false), beat(true), update(), wire::ControllerToSwitch::default()] {
        assert!(matches!(Conversation::new(now).handle(early, now), Err(Ended::Protocol(_))));
    }
    assert!(matches!(Conversation::new(now).handle(goodbye(), now), Ok(Event::Goodbye(_))));
    let mut live = Conversation::new(now);
    assert!(matches!(live.handle(registered(), now), Ok(Event::Registered(_))));
    assert!(live.is_live());
    assert!(matches!(live.handle(registered(), now), Err(Ended::Protocol(_))));
    let answer = ToController::Heartbeat(Heartbeat { sequence: 3, answer: true });
    assert_eq!(live.handle(beat(false), now), Ok(Event::Answer(answer)));
    assert_eq!(live.handle(beat(true), now), Ok(Event::Alive));
    assert_eq!(live.handle(wire::ControllerToSwitch::default(), now), Ok(Event::Alive));
    assert!(matches!(live.handle(update(), now), Ok(Event::Update(_))));
    assert!(matches!(live.handle(goodbye(), now), Ok(Event::Goodbye(_))));
}

#[test]
fn heartbeats_are_sent_in_time_and_silence_ends_it() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut conversation = Conversation::new(start);
    assert_eq!(conversation.handle_timeout(at(4999)), Ok(None));
    assert!(matches!(conversation.handle_timeout(at(5000)), Err(Ended::Silent(_))));
    let mut conversation = Conversation::new(start);
    conversation.handle(registered(), at(0)).unwrap();
    assert_eq!(conversation.poll_timeout(), at(1000));
    assert_eq!(conversation.handle_timeout(at(999)), Ok(None));
    assert!(conversation.handle_timeout(at(1000)).unwrap().is_some());
    assert_eq!(conversation.poll_timeout(), at(2000));
    let beat = message(FromController::Heartbeat(Heartbeat { sequence: 1, answer: true }));
    conversation.handle(beat, at(1500)).unwrap();
    assert!(conversation.handle_timeout(at(4499)).is_ok());
    assert_eq!(conversation.handle_timeout(at(4500)), Err(Ended::Silent(Duration::from_secs(3))));
}

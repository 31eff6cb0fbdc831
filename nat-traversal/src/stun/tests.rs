use super::*;
use proptest::prelude::*;

const SERVER: &str = "192.0.2.1:3478";

fn server() -> SocketAddr {
    SERVER.parse().unwrap()
}

fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

fn client(now: Instant) -> StunClient {
    StunClient::new(server(), Duration::from_secs(12), now)
}

/// A success answer with one attribute that holds an IPv4 address.
fn reply(request: &[u8], attribute: u16, seen: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(seen) = seen else { panic!("IPv4 only") };
    let mut port = seen.port().to_be_bytes();
    let mut ip = seen.ip().octets();
    if attribute == 0x0020 {
        port.iter_mut().zip(&binding::MAGIC_COOKIE).for_each(|(a, b)| *a ^= b);
        ip.iter_mut().zip(&binding::MAGIC_COOKIE).for_each(|(a, b)| *a ^= b);
    }
    let mut reply = vec![1, 1, 0, 12];
    reply.extend_from_slice(&request[4..20]);
    reply.extend_from_slice(&attribute.to_be_bytes());
    reply.extend_from_slice(&[0, 8, 0, 1, port[0], port[1]]);
    reply.extend_from_slice(&ip);
    reply
}

fn error_reply(request: &[u8], code: u16) -> Vec<u8> {
    let mut reply = vec![1, 0x11, 0, 8];
    reply.extend_from_slice(&request[4..20]);
    reply.extend_from_slice(&[0, 9, 0, 4, 0, 0, (code / 100) as u8, (code % 100) as u8]);
    reply
}

fn sent(client: &mut StunClient, now: Instant) -> Vec<u8> {
    let (to, request) = client.poll_transmit(now).expect("a request is due");
    assert_eq!(to, server());
    assert_eq!(client.poll_transmit(now), None);
    request
}

#[test]
fn an_answer_tells_the_mapped_address_once() {
    let start = Instant::now();
    let mut client = client(start);
    for attribute in [0x0020, 0x0001] {
        let request = sent(&mut client, start);
        let answer = reply(&request, attribute, addr("203.0.113.5:4000"));
        assert!(client.handle(server(), &answer, start + Duration::from_millis(30)));
        assert_eq!(client.mapped(), Some(addr("203.0.113.5:4000")));
        assert_eq!(client.rtt(), Some(Duration::from_millis(30)));
        assert!(!client.handle(server(), &answer, start), "a second copy is to nothing");
        client.refresh_now(start);
    }
    assert_eq!(client.poll_event(), Some(StunEvent::Mapped(addr("203.0.113.5:4000"))));
    assert_eq!(client.poll_event(), None);
}

#[test]
fn the_next_request_follows_within_the_refresh_time() {
    let start = Instant::now();
    let mut client = client(start);
    let request = sent(&mut client, start);
    client.handle(server(), &reply(&request, 0x0020, addr("203.0.113.5:4000")), start);
    let next = client.poll_timeout().unwrap() - start;
    assert!((Duration::from_millis(9_600)..=Duration::from_secs(12)).contains(&next), "{next:?}");
    assert_eq!(client.poll_transmit(start + next - Duration::from_millis(1)), None);
    sent(&mut client, start + next);
}

#[test]
fn a_changed_address_is_said_and_an_unchanged_one_is_not() {
    let start = Instant::now();
    let mut client = client(start);
    let mut now = start;
    let seen = ["203.0.113.5:1", "203.0.113.5:1", "203.0.113.5:2"].map(addr);
    for seen in seen {
        let request = sent(&mut client, now);
        client.handle(server(), &reply(&request, 0x0020, seen), now);
        now = client.poll_timeout().unwrap();
    }
    assert_eq!(client.poll_event(), Some(StunEvent::Mapped(seen[0])));
    assert_eq!(client.poll_event(), Some(StunEvent::Mapped(seen[2])));
    assert_eq!(client.poll_event(), None);
}

#[test]
fn a_silent_server_is_asked_seven_times_and_then_anew() {
    let start = Instant::now();
    let mut client = client(start);
    let mut times = Vec::new();
    let mut now = start;
    while client.poll_event().is_none() {
        if client.poll_transmit(now).is_some() {
            times.push((now - start).as_millis());
        }
        now = client.poll_timeout().unwrap().max(now);
        assert!(now < start + Duration::from_secs(30));
    }
    assert_eq!(times, [0, 250, 750, 1750, 3750, 7750, 15750, 19750], "the eighth begins the next round");
    assert!(!client.answers());
    let silent_until = now + Duration::from_secs(60);
    while now < silent_until {
        client.poll_transmit(now);
        now = client.poll_timeout().unwrap().max(now);
    }
    assert_eq!(client.poll_event(), None, "silence is said once");
    client.refresh_now(now);
    let request = std::iter::from_fn(|| {
        now = client.poll_timeout().unwrap().max(now);
        Some(client.poll_transmit(now))
    });
    let (_, request) = request.take(3).flatten().last().expect("asked further on");
    client.handle(server(), &reply(&request, 0x0020, addr("203.0.113.5:4000")), now);
    assert_eq!(client.poll_event(), Some(StunEvent::Mapped(addr("203.0.113.5:4000"))));
    assert!(client.answers());
}

#[test]
fn what_does_not_come_from_the_server_or_of_the_transaction_is_refused() {
    let start = Instant::now();
    let mut client = client(start);
    let request = sent(&mut client, start);
    let spoofed = addr("198.51.100.66:6");
    let answer = reply(&request, 0x0020, spoofed);
    assert!(!client.handle(addr("192.0.2.1:3479"), &answer, start), "another port");
    assert!(!client.handle(addr("192.0.2.2:3478"), &answer, start), "another address");
    let mut other = answer.clone();
    other[19] ^= 1;
    assert!(!client.handle(server(), &other, start), "another transaction");
    assert!(!client.handle(server(), &request, start), "the request itself");
    assert_eq!(client.mapped(), None);
    assert!(
        client.handle(addr("[::ffff:192.0.2.1]:3478"), &answer, start),
        "the dual-stack form of its address"
    );
}

#[test]
fn errors_and_unusable_addresses_are_no_answers() {
    let start = Instant::now();
    let mut client = client(start);
    let request = sent(&mut client, start);
    for answer in [
        error_reply(&request, 500),
        reply(&request, 0x0020, addr("0.0.0.0:5")),
        reply(&request, 0x0020, addr("203.0.113.5:0")),
        reply(&request, 0x0020, addr("224.0.0.1:5")),
    ] {
        assert!(client.handle(server(), &answer, start));
        assert_eq!(client.mapped(), None);
    }
    sent(&mut client, start + Duration::from_millis(250));
}

#[test]
fn a_hurried_request_goes_out_again_but_not_forever() {
    let start = Instant::now();
    let mut client = client(start);
    let first = sent(&mut client, start);
    client.refresh_now(start);
    assert_eq!(client.poll_transmit(start), None, "it has only just gone");
    let mut now = start;
    for _ in 0..4 {
        now = client.poll_timeout().unwrap();
        sent(&mut client, now);
    }
    let hurried = now + Duration::from_millis(10);
    client.refresh_now(hurried);
    assert_eq!(sent(&mut client, hurried), first, "the same transaction");
    let end = start + Duration::from_millis(19_750);
    while now < end {
        now += Duration::from_millis(100);
        client.refresh_now(now);
        client.poll_transmit(now);
    }
    assert_eq!(client.poll_event(), Some(StunEvent::Silent), "hurry does not put off the verdict");
}

#[test]
fn what_a_dead_server_saw_holds_for_some_minutes_only() {
    let start = Instant::now();
    let mut client = client(start);
    let request = sent(&mut client, start);
    client.handle(server(), &reply(&request, 0x0020, addr("203.0.113.5:1")), start);
    assert_eq!(client.poll_event(), Some(StunEvent::Mapped(addr("203.0.113.5:1"))));
    let mut said = Vec::new();
    for second in 0..1000 {
        let now = start + Duration::from_secs(second);
        client.poll_transmit(now);
        said.extend(std::iter::from_fn(|| client.poll_event()).map(|event| (second, event)));
        assert_eq!(client.mapped().is_some(), said.len() < 2, "{second}");
    }
    let [(first, StunEvent::Silent), (second, StunEvent::Silent)] = said[..] else { panic!("{said:?}") };
    assert!((25..45).contains(&first) && (300..340).contains(&(second - first)), "{said:?}");
}

#[test]
fn the_round_trip_of_a_repeated_request_is_unknown() {
    let start = Instant::now();
    let mut client = client(start);
    sent(&mut client, start);
    let later = start + Duration::from_millis(250);
    let request = sent(&mut client, later);
    client.handle(server(), &reply(&request, 0x0020, addr("203.0.113.5:1")), later);
    assert_eq!(client.rtt(), None);
}

#[test]
fn change_requests_have_the_flags_of_the_rfc() {
    let id = [7; 12];
    assert_eq!(binding::request(&id, AnswerFrom::Same).len(), 20);
    let other = binding::request(&id, AnswerFrom::OtherAddress);
    assert_eq!(other[..4], [0, 1, 0, 8]);
    assert_eq!(other[20..], [0, 3, 0, 4, 0, 0, 0, 6]);
    assert_eq!(binding::request(&id, AnswerFrom::OtherPort)[24..], [0, 0, 0, 2]);
    assert!(binding::is_request_of(&other, &id));
    assert_eq!(binding::answer(&other, &id), None);
}

proptest! {
    #[test]
    fn mutated_answers_never_panic_and_truncated_ones_are_refused(
        at in 0usize..32, bits in 1u8.., cut in 0usize..32,
    ) {
        let start = Instant::now();
        let mut client = client(start);
        let request = sent(&mut client, start);
        let answer = reply(&request, 0x0020, addr("203.0.113.5:4000"));
        client.handle(server(), &answer[..cut], start);
        prop_assert_eq!(client.mapped(), None);
        let mut mutated = answer;
        mutated[at] ^= bits;
        client.handle(server(), &mutated, start);
    }
}

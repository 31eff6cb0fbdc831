use super::*;

fn material() -> KeyMaterial {
    KeyMaterial::new(std::array::from_fn(|i| i as u8))
}

fn pair(cipher: Cipher, limit: u64) -> (Sealer, Opener) {
    let sealer = Sealer::new(cipher, &material(), Role::Initiator, ReceiverIndex(0x0a0b0c0d), 5, limit);
    (sealer, Opener::new(cipher, &material(), Role::Responder))
}

fn seal(sealer: &mut Sealer, message: &[u8]) -> Vec<u8> {
    let mut buf = vec![0; HEADER_LEN];
    buf.extend(message);
    buf.extend([0; TAG_LEN]);
    sealer.seal(Lane::Bulk, &mut buf).unwrap();
    buf
}

fn open(opener: &mut Opener, datagram: &[u8]) -> Result<(Vec<u8>, bool), OpenError> {
    let mut buf = datagram.to_vec();
    let header = Header::parse(&buf).expect("sealed datagrams have a header");
    opener.open(&header, &mut buf).map(|(m, newest)| (m.to_vec(), newest.0))
}

#[test]
fn opens_what_was_sealed_once_and_in_any_order() {
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        let (mut sealer, mut opener) = pair(cipher, 10);
        let first = seal(&mut sealer, b"first");
        let second = seal(&mut sealer, b"second");
        assert_eq!(open(&mut opener, &second), Ok((b"second".to_vec(), true)));
        assert_eq!(open(&mut opener, &first), Ok((b"first".to_vec(), false)));
        assert_eq!(open(&mut opener, &first), Err(OpenError::Replayed));
        assert_eq!(open(&mut opener, &second), Err(OpenError::Replayed));
    }
}

#[test]
fn a_message_is_sealed_in_place_and_from_elsewhere_alike() {
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        for len in [0, 1, 15, 16, 17, 1400, 9000] {
            let message: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (mut one, _) = pair(cipher, 2);
            let (mut other, mut opener) = pair(cipher, 2);
            let in_place = [seal(&mut one, &message), seal(&mut one, &message)];
            let mut from = vec![0; len + SEAL_OVERHEAD];
            for sealed in in_place {
                other.seal_from(Lane::Bulk, &message, &mut from).unwrap();
                assert_eq!(from, sealed);
                assert_eq!(open(&mut opener, &from).map(|(m, _)| m), Ok(message.clone()));
            }
            assert_eq!(other.seal_from(Lane::Bulk, &message, &mut from), Err(CounterExhausted));
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed_and_does_not_burn_the_counter() {
    let (mut sealer, mut opener) = pair(Cipher::Aes256Gcm, 10);
    let sealed = seal(&mut sealer, b"payload");
    for bit in 0..sealed.len() * 8 {
        let mut forged = sealed.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(header) = Header::parse(&forged) {
            let mut buf = forged.clone();
            assert_eq!(opener.open(&header, &mut buf).map(|_| ()), Err(OpenError::BadTag), "bit {bit}");
        }
    }
    assert!(open(&mut opener, &sealed).is_ok());
}

#[test]
fn a_node_does_not_open_its_own_datagrams() {
    let (mut sealer, _) = pair(Cipher::Aes256Gcm, 10);
    let mut own = Opener::new(Cipher::Aes256Gcm, &material(), Role::Initiator);
    assert_eq!(open(&mut own, &seal(&mut sealer, b"x")), Err(OpenError::BadTag));
}

#[test]
fn the_counter_limit_is_kept() {
    let (mut sealer, _) = pair(Cipher::Aes256Gcm, 2);
    seal(&mut sealer, b"1");
    seal(&mut sealer, b"2");
    assert_eq!(sealer.seal(Lane::Bulk, &mut [0; 64]), Err(CounterExhausted));
    assert_eq!(sealer.counter(), 2);
}

/// The vectors are published: another implementation must be able to check itself against them.
#[test]
fn vectors_of_the_documentation() {
    let doc = include_str!("../../../../docs/wire-format.md");
    let message: Vec<u8> = (0..24).collect();
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        let (mut sealer, _) = pair(cipher, 10);
        for counter in 0..2 {
            let hex: String = seal(&mut sealer, &message).iter().map(|b| format!("{b:02x}")).collect();
            assert!(
                doc.contains(&hex),
                "docs/wire-format.md lacks {} counter {counter}: {hex}",
                cipher.name()
            );
        }
    }
}

#[test]
fn lanes_count_apart_and_share_the_limit() {
    let (mut sealer, mut opener) = pair(Cipher::Aes256Gcm, 20_002);
    let in_lane = |sealer: &mut Sealer, lane| {
        let mut buf = [0; SEAL_OVERHEAD + 1];
        sealer.seal(lane, &mut buf).unwrap();
        buf
    };
    let early = in_lane(&mut sealer, Lane::Bulk);
    let prompt: Vec<_> = (0..20_000).map(|_| in_lane(&mut sealer, Lane::Prompt)).collect();
    let late = in_lane(&mut sealer, Lane::Bulk);
    assert_eq!(Header::parse(&late).map(|h| (h.lane, h.counter)), Ok((Lane::Bulk, 1)));
    assert_eq!(sealer.seal(Lane::Prompt, &mut [0; 64]), Err(CounterExhausted));
    // Far more of the one lane overtake the other than a window holds.
    assert!(prompt.iter().all(|datagram| open(&mut opener, datagram).is_ok_and(|(_, newest)| newest)));
    assert_eq!(open(&mut opener, &early), Ok((vec![0], true)));
    assert_eq!(open(&mut opener, &late), Ok((vec![0], true)));
    assert_eq!(open(&mut opener, &early), Err(OpenError::Replayed));
    // A datagram of one lane is none of the other.
    let mut moved = late;
    moved[8] ^= 0x80;
    moved[15] = 0xff;
    assert_eq!(open(&mut opener, &moved), Err(OpenError::Replayed));
    moved[12] = 0xff;
    assert_eq!(open(&mut opener, &moved), Err(OpenError::BadTag));
}

/// Which library has the key is nothing that a peer sees.
#[test]
fn both_libraries_make_and_take_the_same_bytes() {
    use super::aead::AeadKey;
    let (key, nonce, aad) = ([7; 32], [9; 12], [3; HEADER_LEN]);
    let keys = [AeadKey::aws_lc(Cipher::Aes256Gcm, &key), AeadKey::ring(&key)];
    for len in (0..130).chain([255, 256, 257, 1400, 8999, 65_000]) {
        let message: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let made = keys.each_ref().map(|key| {
            let (mut sealed, mut tag, mut from, mut from_tag) =
                (message.clone(), [0; TAG_LEN], vec![0; len], [0; TAG_LEN]);
            key.seal(nonce, &aad, &mut sealed, &mut tag);
            key.seal_from(nonce, &aad, &message, &mut from, &mut from_tag);
            assert_eq!((&sealed, tag), (&from, from_tag), "{len}");
            [sealed, tag.to_vec()].concat()
        });
        assert_eq!(made[0], made[1], "{len}");
        for key in &keys {
            let mut sealed = made[0].clone();
            assert!(key.open(nonce, &aad, &mut sealed).is_ok_and(|opened| *opened == message), "{len}");
            let mut forged = made[0].clone();
            *forged.last_mut().expect("it has a tag") ^= 1;
            assert!(key.open(nonce, &aad, &mut forged).is_err(), "{len}");
            assert!(len < 16 || forged[..len] != message[..], "{len}: left in the clear");
        }
    }
    let mut short = [0; TAG_LEN - 1];
    assert!(keys.iter().all(|key| key.open(nonce, &aad, &mut short).is_err()));
}

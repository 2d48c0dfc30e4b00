use super::*;

const SERVER: &str = "virt-handler";
const CLIENT: &str = "kubevirt-api";

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn authority(before: Secret, at: OffsetDateTime) -> Secret {
    renewed(before, "authority", at).unwrap()
}

/// A Secret with a certificate.
fn leaf(signer: &Signer, dns: &str, side: Side) -> Secret {
    let (certificate, key) = signed(signer, dns, side, now()).unwrap();
    let parts = [(CERTIFICATE, certificate), (KEY, key)];
    let data = parts.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    Secret { data: Some(data.into()), ..Secret::default() }
}

fn set(secret: &mut Secret, key: &str, value: &[u8]) {
    secret.data.as_mut().unwrap().insert(key.to_owned(), ByteString(value.to_vec()));
}

#[test]
fn each_side_believes_the_other_and_is_not_the_other() {
    let signer = signer(&authority(Secret::default(), now()), now()).unwrap();
    let (server, client) = (leaf(&signer, SERVER, Side::Server), leaf(&signer, CLIENT, Side::Client));
    assert_eq!(check(&server, &signer.bundle, SERVER, Side::Server), Ok(()));
    assert_eq!(check(&client, &signer.bundle, CLIENT, Side::Client), Ok(()));
    assert!(check(&server, &signer.bundle, SERVER, Side::Client).is_err(), "who serves calls nobody");
    assert!(check(&client, &signer.bundle, CLIENT, Side::Server).is_err(), "who calls serves nobody");
    assert!(check(&server, &signer.bundle, CLIENT, Side::Server).is_err(), "it has another name");
    let shown = Shown::of(&chain(part(&client, CERTIFICATE)).unwrap());
    assert_eq!(shown.common_name().as_deref(), Some(CLIENT));
}

#[test]
fn an_authority_that_is_replaced_or_lost_is_believed_until_what_it_signed_is_replaced() {
    let first = authority(Secret::default(), now());
    let old = signer(&first, now()).unwrap();
    let server = leaf(&old, SERVER, Side::Server);
    let second = authority(first, now());
    let new = signer(&second, now()).unwrap();
    assert_eq!(certificates(&new.bundle).count(), 2);
    assert!(new.bundle != old.bundle && new.bundle.ends_with(&old.bundle));
    assert_eq!(check(&server, &new.bundle, SERVER, Side::Server), Ok(()));
    assert_eq!(check(&leaf(&new, SERVER, Side::Server), &new.bundle, SERVER, Side::Server), Ok(()));
    // Its Secret was deleted and made again.
    let other = signer(&authority(Secret::default(), now()), now()).unwrap();
    assert!(check(&server, &other.bundle, SERVER, Side::Server).is_err());
    let bundle = merged(&other.bundle, old.bundle.as_bytes());
    assert_eq!(check(&server, &bundle, SERVER, Side::Server), Ok(()));
    assert_eq!(merged(&bundle, bundle.as_bytes()), bundle, "nothing is twice");
    let many = merged(&merged(&new.bundle, other.bundle.as_bytes()), signer_of_nobody().bundle.as_bytes());
    assert_eq!(certificates(&many).count(), BELIEVED);
}

fn signer_of_nobody() -> Signer {
    signer(&authority(Secret::default(), now()), now()).unwrap()
}

#[test]
fn a_young_authority_signs_only_what_cannot_wait() {
    let made = authority(Secret::default(), now());
    assert!(!signer(&made, now()).unwrap().settled);
    assert!(signer(&made, now() + SETTLED).unwrap().settled);
    assert!(signer(&made, now() + AUTHORITY.life - AUTHORITY.ahead).is_none(), "it is to be replaced");
    assert!(signer(&made, now() - time::Duration::hours(5)).is_some(), "a clock was set back");
    let ahead = authority(Secret::default(), now() + time::Duration::days(800));
    assert!(signer(&ahead, now()).is_none(), "it is not good yet");
}

#[test]
fn what_is_damaged_is_not_used() {
    let whole = authority(Secret::default(), now());
    let other = authority(Secret::default(), now());
    for (key, value) in [
        (AUTHORITY_KEY, part(&other, AUTHORITY_KEY)),
        (AUTHORITY_KEY, b"-----BEGIN PRIVATE KEY-----\n".as_slice()),
        (BUNDLE, b"".as_slice()),
        (BUNDLE, &[0xff, 0xfe]),
        (RENEW, b"soon".as_slice()),
    ] {
        let mut damaged = whole.clone();
        set(&mut damaged, key, value);
        assert!(signer(&damaged, now()).is_none(), "{key}");
        assert!(signer(&authority(damaged, now()), now()).is_some(), "it is made again: {key}");
    }
    let signer = signer(&whole, now()).unwrap();
    for (key, value) in
        [(KEY, part(&other, AUTHORITY_KEY)), (KEY, b"".as_slice()), (CERTIFICATE, b"x".as_slice())]
    {
        let mut damaged = leaf(&signer, SERVER, Side::Server);
        set(&mut damaged, key, value);
        assert!(check(&damaged, &signer.bundle, SERVER, Side::Server).is_err(), "{key}");
    }
    assert_eq!(
        merged(&signer.bundle, b"rubbish -----BEGIN CERTIFICATE-----\nx-----END CERTIFICATE-----\n"),
        signer.bundle
    );
}

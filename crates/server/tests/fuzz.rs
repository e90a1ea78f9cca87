//! The bodies of the fuzz targets with a fixed sequence of mutations, so that every run does some of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use boxrig_server::vergeos::ere;

#[path = "../../../fuzz/bodies/vergeos.rs"]
#[allow(unreachable_pub)]
mod vergeos;

/// Runs `body` with each seed and with `rounds` mutations of the seeds, always the same ones.
fn run(body: fn(&[u8]), seeds: &[&str], alphabet: &str, rounds: usize) {
    for seed in seeds {
        body(seed.as_bytes());
    }
    let pieces: Vec<&str> = alphabet.split(' ').collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        // xorshift64: it need not be good, only the same everywhere.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below.max(1)).unwrap()).unwrap()
    };
    for _ in 0..rounds {
        let mut data = seeds[random(seeds.len())].as_bytes().to_vec();
        for _ in 0..=random(6) {
            let at = random(data.len() + 1);
            match random(4) {
                0 => data.truncate(at),
                1 => {
                    let piece = pieces[random(pieces.len())].replace('_', " ");
                    data.splice(at..at, piece.bytes());
                }
                2 if at < data.len() => data[at] = u8::try_from(random(256)).unwrap(),
                _ => {
                    let part = data[at..(at + random(12)).min(data.len())].to_vec();
                    data.extend(part);
                }
            }
        }
        body(&data);
    }
}

#[test]
fn filters() {
    let seeds = [
        "name eq 'x' and (mtu gt 5 or enabled eq true)",
        r"name rx '^a\\.b$' or description eq 'it\'s \{x}'",
        "vnet#name eq 'b{r}ace' and $key ge -12.5 and x eq null",
    ];
    let alphabet = "( ) ' \\ { } _and_ _or_ # $key _eq_ _rx_ null true 1e9 -1 0.5 é 𝄞 , _";
    run(vergeos::filter, &seeds, alphabet, 30_000);
}

#[test]
fn projections() {
    let seeds = [
        "$key,name,machine#status#running as running",
        "count(members) as n,stats[reads,writes],display(status)",
        "flatten(schedule[$key as sch_$key,display(day) as d]),x eq 'y' as z",
    ];
    let alphabet = "( ) [ ] # , _as_ all $display display( count( _eq_ 'x' null { } é 𝄞 _";
    run(vergeos::projection, &seeds, alphabet, 30_000);
}

#[test]
fn expressions() {
    let seeds = [
        "^a(b|c)*[[:digit:]x-z]+$\nabc1",
        "(a*)*b{2,3}?\naaaab",
        "[]^-]\\.\n]",
    ];
    let alphabet = "( ) [ ] [^ * + ? {2} {1,} {,9} | ^ $ . \\ - & ~ [: :] é 𝄞 (? \\d";
    run(vergeos::ere, &seeds, alphabet, 5_000);
}

//! Names that lead from one instance to another.
//!
//! Instances share no network. What a platform calls neighbours – the services of an app, say – reach each other all the same: a
//! name that the platform knows is answered with an address that nobody has, and a connection to that address is made by the
//! platform, to whichever instance stands behind the name just then.

// Only Linux has instances with networks of their own.
#![cfg_attr(not(target_os = "linux"), allow(dead_code))]

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::{BoxDuplex, BoxFuture, InstanceId};

/// What a platform says of its instances' names for each other.
pub trait Neighbours: Send + Sync + std::fmt::Debug {
    /// Whether `name` is a neighbour's when `from` asks: in lower case, without a final dot. What is not is
    /// asked of the host's resolver.
    fn knows(&self, from: &InstanceId, name: &str) -> bool;

    /// Opens a connection of `from` to TCP `port` of the neighbour.
    ///
    /// # Errors
    /// When nobody stands behind the name now, or the port is not for neighbours. The instance sees a reset.
    fn connect<'a>(
        &'a self,
        from: &'a InstanceId,
        name: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<BoxDuplex>>;
}

/// Where an engine keeps what it was told; instances that run already find it there too.
pub type Told = Arc<OnceLock<Arc<dyn Neighbours>>>;

/// The first address that is given. 240.0.0.0/4 is reserved (RFC 1112): no network has such addresses, and the guard refuses those
/// that were not given, so that a connection to a neighbour that is not known any more leads nowhere.
const FIRST: u32 = u32::from_be_bytes([240, 0, 0, 0]);
/// How many there are.
const ADDRESSES: u32 = 1 << 17;
/// Names that are remembered. A name's address follows from the name, so to forget one costs next to nothing.
const MOST: usize = 4096;

/// The neighbours of one instance.
#[derive(Debug, Clone)]
pub struct Neighbourhood {
    of: InstanceId,
    told: Told,
    given: Arc<Mutex<BTreeMap<Ipv4Addr, String>>>,
}

impl Neighbourhood {
    /// The neighbours of `of`, by what `told` holds when they are asked for.
    #[must_use]
    pub fn new(of: InstanceId, told: Told) -> Self {
        Self {
            of,
            told,
            given: Arc::default(),
        }
    }

    /// The address for a neighbour's name; `None` for any other name.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<Ipv4Addr> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if !self.told.get()?.knows(&self.of, &name) {
            return None;
        }
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() >= MOST {
            given.clear();
        }
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let first = hasher.finish();
        (0..u64::from(ADDRESSES))
            .filter_map(|step| {
                let place = first.wrapping_add(step) % u64::from(ADDRESSES);
                Some(Ipv4Addr::from(FIRST + u32::try_from(place).ok()?))
            })
            .find(|at| given.entry(*at).or_insert_with(|| name.clone()) == &name)
    }

    /// The name that an address was given for.
    pub(super) fn name(&self, address: IpAddr) -> Option<String> {
        let IpAddr::V4(address) = address.to_canonical() else {
            return None;
        };
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.get(&address).cloned()
    }

    pub(super) async fn connect(&self, name: &str, port: u16) -> io::Result<BoxDuplex> {
        match self.told.get() {
            Some(neighbours) => neighbours.connect(&self.of, name, port).await,
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Street;

    impl Neighbours for Street {
        fn knows(&self, _: &InstanceId, name: &str) -> bool {
            name.starts_with('n')
        }

        fn connect<'a>(
            &'a self,
            _: &'a InstanceId,
            _: &'a str,
            _: u16,
        ) -> BoxFuture<'a, io::Result<BoxDuplex>> {
            Box::pin(async { Err(io::ErrorKind::NotFound.into()) })
        }
    }

    #[test]
    fn a_name_has_an_address_of_its_own() {
        let told = Told::default();
        let here = Neighbourhood::new(InstanceId::new("a").unwrap(), Arc::clone(&told));
        assert_eq!(here.address("n1"), None, "nothing was told yet");
        told.set(Arc::new(Street)).unwrap();
        assert_eq!(here.address("other"), None);
        let mut all = BTreeMap::new();
        for n in 0..2000 {
            let name = format!("n{n}");
            let at = here.address(&name).unwrap();
            assert_eq!(at.octets()[0], 240);
            assert_eq!(here.address(&name.to_ascii_uppercase()), Some(at));
            assert_eq!(here.name(at.into()), Some(name.clone()));
            assert_eq!(all.insert(at, name), None);
        }
        // An address outlives the table, as a cached answer does.
        let again = Neighbourhood::new(InstanceId::new("a").unwrap(), told);
        assert_eq!(again.address("n1."), here.address("n1"));
        for n in 0..3 * MOST {
            assert!(here.address(&format!("n{n}")).is_some());
        }
        assert!(here.given.lock().unwrap().len() <= MOST);
    }
}

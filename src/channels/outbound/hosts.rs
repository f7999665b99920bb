//! State of each host that users name, such as its connections, for a bounded number of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// State by origin. When there are more than `most`, those used longest ago are dropped, and with them their idle
/// connections; one that is in use stays.
#[derive(Debug)]
pub struct Hosts<T> {
    most: usize,
    known: Mutex<Known<T>>,
}

#[derive(Debug)]
struct Known<T> {
    hosts: HashMap<String, (Arc<T>, u64)>,
    uses: u64,
}

impl<T> Hosts<T> {
    /// Keeps up to `most` that are not in use.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, known: Mutex::new(Known { hosts: HashMap::new(), uses: 0 }) }
    }

    /// State of an origin, made if there is none. It is in use until the answer is dropped.
    ///
    /// # Errors
    /// What `make` refuses.
    pub fn get<E>(&self, origin: &str, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.uses += 1;
        let now = known.uses;
        if let Some((host, used)) = known.hosts.get_mut(origin) {
            *used = now;
            return Ok(Arc::clone(host));
        }
        while known.hosts.len() >= self.most && known.forget() {}
        let host = Arc::new(make()?);
        known.hosts.insert(origin.to_owned(), (Arc::clone(&host), now));
        Ok(host)
    }
}

impl<T> Known<T> {
    /// Forgets the host that was used longest ago, unless all are in use.
    fn forget(&mut self) -> bool {
        let idle = self.hosts.iter().filter(|(_, (host, _))| Arc::strong_count(host) == 1);
        let oldest = idle.min_by_key(|(_, (_, used))| *used).map(|(origin, _)| origin.clone());
        oldest.and_then(|origin| self.hosts.remove(&origin)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn get(hosts: &Hosts<String>, origin: &str) -> Arc<String> {
        hosts.get(origin, || Ok::<_, Infallible>(origin.to_owned())).unwrap()
    }

    #[test]
    fn those_used_longest_ago_are_forgotten_and_those_in_use_are_not() {
        let hosts = Hosts::new(3);
        let in_use = get(&hosts, "in use");
        let [idle, again] = ["idle", "again"].map(|origin| Arc::downgrade(&get(&hosts, origin)));
        get(&hosts, "again");
        get(&hosts, "one more");
        assert!(idle.upgrade().is_none() && again.upgrade().is_some());
        assert!(Arc::ptr_eq(&in_use, &get(&hosts, "in use")));
    }

    #[test]
    fn after_many_in_use_at_once_the_bound_holds_again() {
        let hosts = Hosts::new(3);
        let burst: Vec<_> = (0..10).map(|n| get(&hosts, &n.to_string())).collect();
        assert_eq!(hosts.known.lock().unwrap().hosts.len(), 10);
        drop(burst);
        get(&hosts, "later");
        assert_eq!(hosts.known.lock().unwrap().hosts.len(), 3);
    }
}

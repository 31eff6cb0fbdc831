//! The cluster itself and the types of instances.

use crate::{
    changes::EventKind,
    command::{NewType, Outcome},
    ids::TypeId,
    names::{check_name, shown},
    records::{Cluster, InstanceType, Limits, RecordKey},
    refusal::Refusal,
    registry::Registry,
};

/// What an agent can run.
pub(crate) const DRIVERS: [&str; 2] = ["container", "qemu"];
const MEMORY_MIN: u64 = 4 << 20;

impl Registry {
    pub(crate) fn init_cluster(&mut self, name: String, epoch: u64) -> Result<Outcome, Refusal> {
        if let Some(cluster) = &self.cluster {
            return Err(Refusal::conflict(format!("the cluster `{}` exists already", cluster.name)));
        }
        check_name("name", &name, 63, "cluster")?;
        self.event(EventKind::ClusterCreated, &name, format!("cluster {name} was made"));
        self.cluster = Some(Cluster { name, epoch, created: self.now });
        self.mark(RecordKey::Cluster);
        Ok(Outcome::Done)
    }

    pub(crate) fn add_type(&mut self, new: NewType) -> Result<Outcome, Refusal> {
        self.check_type_name(&new.name)?;
        if !DRIVERS.contains(&new.driver.as_str()) {
            return Err(Refusal::invalid(
                "driver",
                format!("`{}` is not a driver; use container or qemu", shown(&new.driver)),
            ));
        }
        if new.cores_milli == 0 {
            return Err(Refusal::invalid(
                "cores",
                "an instance needs more than 0 cores; 0.1 is a tenth of one",
            ));
        }
        if new.memory_bytes < MEMORY_MIN {
            return Err(Refusal::invalid("memory", "less than 4 MiB; an instance cannot run in that"));
        }
        check_image(&new.image)?;
        if new.description.len() > 1024 {
            return Err(Refusal::invalid("description", "longer than 1,024 bytes; shorten it"));
        }
        let id = TypeId(self.next_number(|c| &mut c.instance_type));
        self.event(EventKind::TypeAdded, id, format!("type {} was added", new.name));
        let limits = Limits {
            cores_milli: new.cores_milli,
            memory_bytes: new.memory_bytes,
            disk_bytes: new.disk_bytes,
        };
        let record = InstanceType {
            id,
            name: new.name,
            limits,
            driver: new.driver,
            image: new.image,
            description: new.description,
            created: self.now,
        };
        self.types.insert(id, record);
        self.mark(RecordKey::Type(id));
        Ok(Outcome::Type(id))
    }

    pub(crate) fn delete_type(&mut self, reference: &str) -> Result<Outcome, Refusal> {
        let (id, name) = self.find_type(reference).map(|t| (t.id, t.name.clone()))?;
        self.types.remove(&id);
        self.mark(RecordKey::Type(id));
        self.event(EventKind::TypeDeleted, id, format!("type {name} was deleted"));
        Ok(Outcome::Done)
    }
}

/// An image is a name in the nodes' image directory, never a path that leaves it.
pub(crate) fn check_image(image: &str) -> Result<(), Refusal> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
    if image.len() > 255 || image.starts_with('.') || !image.bytes().all(allowed) {
        return Err(Refusal::invalid(
            "image",
            format!(
                "`{}` is not the name of an image; name a file in the nodes' image directory",
                shown(image)
            ),
        ));
    }
    Ok(())
}

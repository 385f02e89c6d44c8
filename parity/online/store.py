"""The online store: Feast's Redis store, with the guarantees that keep serving equal to training.

feature_store.yaml names it, through Feast's own plug-in mechanism:

    online_store:
      type: parity.online.store.ParityRedisOnlineStore
      connection_string: localhost:6379

Keys, fields and bytes are those of Feast's stock Redis store, so either can read what the other wrote. It differs in
what it lets in and in what it gives out:

- A write is compared with what is stored and set in one atomic step inside Redis. The same instant or a newer one is
  let in (so a correction and an added feature arrive), an older one is not, however many writers there are.
- A value older than the feature view's ttl reads as null, OUTSIDE_MAX_AGE; its age may be the ttl exactly, as in the
  offline store. An unknown entity reads as null, NOT_FOUND, and so does what is not readable. A value from the
  future is neither written nor served; how far a producer's clock may be ahead can be declared.
- A row of a continuous view carries its own future (online/steps.py): what is served is the step that holds at the
  present, which is what the ttl counts from; and past the horizon nothing, OUTSIDE_MAX_AGE.
- What a stream has written, ahead of the files, no materialization takes back.
- What was retracted offline can be taken out again (`retract`), or replaced by the row before it (`replace`).
- A view is served while it is materialized, and a FeatureService with ``precompute_online`` from the same rows as all
  others: its vectors would know of no ttl and no retraction.
- Every call to Redis is bounded in time, and a request that can't be answered is refused as such (online/requests.py).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from parity.definition.instants import utc_now
from parity.online.connection import RedisOptions
from parity.online.reading import Reads
from parity.online.scanning import Scans
from parity.online.writing import Writes


class ParityRedisOnlineStoreConfig(RedisOptions):
    """The options of the store, under the name that Feast looks for."""

    type: Literal["parity.online.store.ParityRedisOnlineStore"] = "parity.online.store.ParityRedisOnlineStore"


class ParityRedisOnlineStore(Reads, Scans, Writes):
    """See the module's docstring. ``now`` is the store's clock, aware UTC; set it to ask about another instant."""

    now: Callable[[], datetime] = staticmethod(utc_now)

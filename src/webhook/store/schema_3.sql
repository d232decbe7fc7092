-- Announced calls have an identity of their own, which the first connection with their UUID takes.
-- taken: connections that have asked for it. awaited: the call, until it has become one, was refused, or was given up.
-- replaced: the UUID of a call that was announced anew before it came; such a row has the call's identity in place of the UUID.
ALTER TABLE announcements ADD COLUMN call BYTES;
ALTER TABLE announcements ADD COLUMN taken BIGINT NOT NULL DEFAULT 0;
ALTER TABLE announcements ADD COLUMN awaited BYTES;
ALTER TABLE announcements ADD COLUMN replaced BYTES;
CREATE INDEX announcements_awaited ON announcements (awaited);
-- Few, and looked for by their age.
CREATE INDEX deliveries_asking ON deliveries (at) WHERE state = 'asking';

-- Attempts made before a delivery was last sent again by a person: its schedule counts from there.
ALTER TABLE deliveries ADD COLUMN tries_before BIGINT NOT NULL DEFAULT 0;

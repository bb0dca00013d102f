CREATE INDEX CONCURRENTLY audit_token ON log.audit (token) WHERE token IS NOT NULL;

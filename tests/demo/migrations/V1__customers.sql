-- e-mail addresses in lower case, a loyalty programme, and nobody has a fax any more
ALTER TABLE customers ADD COLUMN loyalty text NOT NULL DEFAULT 'none';
UPDATE customers SET email = lower(email);
ALTER TABLE customers ADD CONSTRAINT customers_email_lower CHECK (email = lower(email));
ALTER TABLE customers DROP COLUMN fax;

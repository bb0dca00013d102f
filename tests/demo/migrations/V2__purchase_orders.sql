-- money in cents; orders are purchase orders now
DROP VIEW open_orders;
ALTER TABLE customers RENAME COLUMN name TO full_name;
ALTER TABLE orders RENAME TO purchase_orders;
ALTER TABLE purchase_orders ADD COLUMN total_cents bigint;
UPDATE purchase_orders SET total_cents = (total * 100)::bigint;
ALTER TABLE purchase_orders ALTER COLUMN total_cents SET NOT NULL, DROP COLUMN total;
CREATE VIEW open_orders AS
    SELECT o.id, c.full_name, o.total_cents
      FROM purchase_orders o JOIN customers c ON c.id = o.customer_id WHERE o.status = 'new';

-- what the application always promised
ALTER TABLE order_lines ADD CONSTRAINT order_lines_quantity CHECK (quantity > 0);
ALTER TABLE order_lines ADD CONSTRAINT order_lines_product FOREIGN KEY (product_id) REFERENCES products;

-- What is left of each brand's revenue once the suppliers are paid?
select
    p_brand as brand,
    sum(l_extendedprice * (1 - l_discount)) as revenue,
    sum(ps_supplycost * l_quantity) as cost,
    sum(l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity) as margin
from lineitem
join partsupp on ps_partkey = l_partkey and ps_suppkey = l_suppkey
join part on p_partkey = l_partkey
group by p_brand
order by margin desc, brand;

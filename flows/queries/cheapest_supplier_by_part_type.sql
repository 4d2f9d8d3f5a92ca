-- Who is the cheapest supplier for each type of part, and what does the dearest one charge?
with offers as (
    select
        p_type,
        s_name,
        ps_supplycost,
        row_number() over (partition by p_type order by ps_supplycost, s_suppkey, p_partkey) as place,
        max(ps_supplycost) over (partition by p_type) as dearest
    from partsupp
    join part on p_partkey = ps_partkey
    join supplier on s_suppkey = ps_suppkey
)
select p_type as part_type, s_name as supplier, ps_supplycost as cost, dearest
from offers
where place = 1
order by part_type;
